//! Texts that keep their positions: one record a line, whatever the line holds.

use std::collections::VecDeque;

use super::{Documents, Line, TextFormat};
use crate::data::{CorpusReport, Error};

/// Iterator with one record for each line of txt and JSON lines, and for each paragraph of markdown, in order.
///
/// A line of plain text is a record even if it is empty. A line of JSON lines without a text, or a blank one, is a record without a text; so a
/// file has as many records as lines. A text that is too long for one document is cut to its beginning.
#[derive(Debug)]
pub struct Records {
    documents: Documents,
    /// Remaining records of the line that was read last.
    waiting: VecDeque<Option<String>>,
}

impl Records {
    /// Creates an iterator over the records from the next line of `documents` on.
    #[must_use]
    pub fn of(documents: Documents) -> Self {
        Self { documents, waiting: VecDeque::new() }
    }

    /// Returns the counts of what has been read so far, and of what had no text.
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
