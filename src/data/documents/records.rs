//! Texts with their places kept: as many as there are lines, whatever the lines hold.

use std::collections::VecDeque;

use super::super::{CorpusReport, Error};
use super::{Documents, Line, TextFormat};

/// One record for each line of txt and JSON lines, and for each paragraph of markdown, in order.
///
/// A line of text is a record even where it is empty. A line of JSON lines that has no text is one without a text, as a blank one is; so
/// the records of a file are as many as its lines. Of a text that is too long for one document only the beginning is given.
#[derive(Debug)]
pub struct Records {
    documents: Documents,
    /// Of the line that was read last.
    waiting: VecDeque<Option<String>>,
}

impl Records {
    #[must_use]
    pub fn of(documents: Documents) -> Self {
        Self { documents, waiting: VecDeque::new() }
    }

    /// What has been read so far, and what of it gave no text.
    #[must_use]
    pub fn report(&self) -> &CorpusReport {
        self.documents.rest()
    }

    fn read_next(&mut self) -> Result<Option<Option<String>>, Error> {
        while self.waiting.is_empty() {
            let Some(line) = self.documents.next_line()? else { return Ok(None) };
            self.waiting = line.records();
        }
        let record = self.waiting.pop_front();
        if let Some(Some(text)) = &record
            && !text.is_empty()
        {
            self.documents.pending.count(text);
        }
        Ok(record)
    }
}

impl Iterator for Records {
    /// Errors are those of [`Documents`].
    type Item = Result<Option<String>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}

impl Line {
    fn records(self) -> VecDeque<Option<String>> {
        match self.format {
            TextFormat::Md => self.texts.into_iter().map(Some).collect(),
            _ if self.is_rest => VecDeque::new(),
            TextFormat::Txt | TextFormat::Jsonl => [self.texts.into_iter().next()].into(),
        }
    }
}
