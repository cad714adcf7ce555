//! Machine code as nvdisasm lists it: instructions and loops.

use std::collections::BTreeMap;
use std::ops::Range;

/// The two factors of a round of Philox 4x32, and their negatives.
const PHILOX: [&str; 4] = ["0xd2511f53", "0xcd9e8d57", "0x2daee0ad", "0x326172a9"];

/// An instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Name such as `LDG.E.128`, without predicate and operands.
    pub name: String,
    /// Index of the instruction that it jumps to.
    target: Option<usize>,
    /// True if it multiplies by a constant of Philox.
    is_philox: bool,
}

/// A function's instructions in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Code {
    pub instructions: Vec<Instruction>,
}

/// Returns the functions of a listing, by name.
pub fn functions(listing: &str) -> BTreeMap<String, Code> {
    let mut found = BTreeMap::new();
    let mut current: Option<(String, Vec<&str>)> = None;
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            finish(&mut found, current.replace((name.to_owned(), Vec::new())));
        } else if line.trim_start().starts_with(".section") {
            finish(&mut found, current.take());
        } else if let Some((_, lines)) = &mut current {
            lines.push(line);
        }
    }
    finish(&mut found, current);
    found
}

fn finish(found: &mut BTreeMap<String, Code>, function: Option<(String, Vec<&str>)>) {
    if let Some((name, lines)) = function {
        found.insert(name, Code::of(&lines));
    }
}

impl Code {
    fn of(lines: &[&str]) -> Self {
        let mut labels = BTreeMap::new();
        let mut parsed = Vec::new();
        for line in lines {
            if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with(".L")) {
                labels.insert(label, parsed.len());
            } else if let Some(instruction) = instruction(line) {
                parsed.push((instruction, PHILOX.iter().any(|factor| line.contains(factor))));
            }
        }
        let resolve = |((name, label), is_philox): ((String, Option<&str>), bool)| Instruction {
            name,
            target: label.and_then(|label| labels.get(label).copied()),
            is_philox,
        };
        Self { instructions: parsed.into_iter().map(resolve).collect() }
    }

    /// Returns at most `count` disjoint loops: each is the shortest that has at least half of the largest weight of any loop disjoint from the
    /// previous ones. A loop lies between a backward jump and its target; `weight` measures an instruction.
    pub fn hottest_loops(&self, count: usize, weight: impl Fn(&Instruction) -> f64) -> Vec<Range<usize>> {
        let back = |(end, instruction): (usize, &Instruction)| {
            // A jump to itself pads the end of the code.
            instruction.target.filter(|&begin| begin < end).map(|begin| begin..end + 1)
        };
        let loops: Vec<Range<usize>> = self.instructions.iter().enumerate().filter_map(back).collect();
        let weigh = |code: &Range<usize>| self.instructions[code.clone()].iter().map(&weight).sum::<f64>();
        let mut found: Vec<Range<usize>> = Vec::new();
        while found.len() < count {
            let is_apart = |one: &&Range<usize>| {
                found.iter().all(|other| one.end <= other.start || other.end <= one.start)
            };
            let apart: Vec<&Range<usize>> = loops.iter().filter(is_apart).collect();
            let heaviest = apart.iter().map(|one| weigh(one)).fold(0.0, f64::max);
            // An enclosing loop weighs at least as much as the loops in it.
            let hottest =
                apart.into_iter().filter(|one| weigh(one) >= heaviest / 2.0).min_by_key(|one| one.len());
            let Some(hottest) = hottest else { break };
            found.push(hottest.clone());
        }
        found
    }

    /// Returns the instructions of a range without those that a forward jump skips if no random numbers are needed: the path without dropout.
    pub fn without_random(&self, part: Range<usize>) -> Vec<&Instruction> {
        let mut kept = Vec::new();
        let mut next = part.start;
        while next < part.end {
            let instruction = &self.instructions[next];
            kept.push(instruction);
            let around = instruction.target.filter(|&target| target > next && target <= part.end);
            let skips = around.filter(|&target| self.is_random(next + 1..target));
            next = skips.unwrap_or(next + 1);
        }
        kept
    }

    /// Returns true if a range makes random numbers and contains no matmul.
    fn is_random(&self, part: Range<usize>) -> bool {
        let part = &self.instructions[part];
        part.iter().any(|one| one.is_philox) && !part.iter().any(|one| one.name.starts_with("HMMA"))
    }
}

/// Parses a line such as `/*0190*/ @!P2 LOP3.LUT R10, RZ ;` into the instruction's name and the label that it jumps to.
fn instruction(line: &str) -> Option<(String, Option<&str>)> {
    let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    u64::from_str_radix(address, 16).ok()?;
    let text = rest.trim_start();
    let text =
        if text.starts_with('@') { text.split_once(char::is_whitespace)?.1.trim_start() } else { text };
    let name = text.split(|c: char| c.is_whitespace() || c == ';').next().filter(|name| !name.is_empty())?;
    let label = if name.starts_with("BRA") {
        text.split_once("`(").and_then(|(_, rest)| rest.split_once(')'))
    } else {
        None
    };
    Some((name.to_owned(), label.map(|(label, _)| label)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "
	.section	.text.copy,\"ax\",@progbits
copy:
.text.copy:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_2:
        /*0010*/                   LDG.E.128 R4, desc[UR8][R2.64] ;
.L_x_1:
        /*0020*/                   FFMA R8, R4, R5, R8 ;
        /*0030*/              @!P1 BRA `(.L_x_1) ;
        /*0040*/               @P0 BRA P2, `(.L_x_2) ;
        /*0050*/               @P0 BRA `(.L_x_3) ;
        /*0060*/                   STG.E desc[UR8][R2.64], R8 ;
.L_x_3:
        /*0070*/                   EXIT ;
.L_x_4:
        /*0080*/                   BRA `(.L_x_4);
        /*0090*/                   NOP;
	.section	.text.other,\"ax\",@progbits
.text.other:
        /*0000*/                   EXIT ;
";

    #[test]
    fn functions_and_their_loops_are_found() {
        let found = functions(LISTING);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["copy", "other"]);
        let copy = &found["copy"];
        assert_eq!(copy.instructions.len(), 10);
        let names = |part: Range<usize>| {
            copy.instructions[part].iter().map(|one| one.name.clone()).collect::<Vec<_>>()
        };
        let is =
            |wanted: &'static str| move |one: &Instruction| f64::from(u8::from(one.name.starts_with(wanted)));
        let hottest = |wanted| copy.hottest_loops(2, is(wanted)).into_iter().map(names).collect::<Vec<_>>();
        assert_eq!(hottest("LDG"), [["LDG.E.128", "FFMA", "BRA", "BRA"]]);
        // Both loops contain it: the inner one is returned, and the outer one overlaps it.
        assert_eq!(hottest("FFMA"), [["FFMA", "BRA"]]);
        assert!(found["other"].hottest_loops(1, is("EXIT")).is_empty());
    }

    #[test]
    fn random_numbers_that_are_jumped_around_are_left_out() {
        let wide = "/*0020*/ IMAD.WIDE.U32 R0, R1, -0x2daee0ad, RZ ;\n".repeat(14);
        let text =
            |body: &str| format!(".text.f:\n/*0010*/ @P0 BRA `(.L_1) ;\n{body}.L_1:\n/*0030*/ EXIT ;\n");
        let kept = |body: &str| {
            let code = &functions(&text(body))["f"];
            code.without_random(0..code.instructions.len()).len()
        };
        assert_eq!(kept(&wide), 2);
        assert_eq!(kept(&wide.replace("-0x2daee0ad", "0x10")), 16);
        assert_eq!(kept(&format!("{wide}/*0025*/ HMMA.16816.F32 R0, R1, R2, RZ ;\n")), 17);
    }
}
