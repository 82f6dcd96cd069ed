//! Files of at most 500 lines without their tests (style §4). A list of warnings: a long file is a hint, not an error.

use crate::workspace::Source;

const LINES_MAX: usize = 500;

pub(crate) fn warnings(sources: &[Source]) -> Vec<String> {
    let long = |s: &Source| {
        let test = s.path.contains("/tests/") || s.path.ends_with("/tests.rs") || s.path.contains("/benches/");
        let lines = lines(&s.text);
        (!test && lines > LINES_MAX).then(|| format!("{}: {lines} lines without tests, at most {LINES_MAX}", s.path))
    };
    sources.iter().filter_map(long).collect()
}

/// Lines up to the tests at the end of the file.
fn lines(text: &str) -> usize {
    text.lines().take_while(|l| *l != "#[cfg(test)]").count()
}
