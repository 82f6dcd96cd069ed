//! Unsafe code lives in four files (style §2).

use crate::rules::verdict;
use crate::workspace::Source;

const ALLOWED: &[&str] = &[
    "daemons/gateway/src/reactor/sys.rs",
    "supervisor/src/sys.rs",
    "daemons/shared/lifecycle/src/fd.rs",
    "daemons/plugin-host/src/host/sandbox.rs",
];

pub(crate) fn check(sources: &[Source]) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|s| !ALLOWED.contains(&s.path.as_str())) {
        for (number, line) in source.text.lines().enumerate() {
            if is_unsafe(line) {
                problems.push(format!("{}:{}: unsafe code outside the four files of the style", source.path, number + 1));
            }
        }
    }
    verdict(problems)
}

/// True for the keyword, or for a waiver of the lint, outside comments and strings.
fn is_unsafe(line: &str) -> bool {
    let code = code_of(line);
    let waived = code.contains("expect(unsafe_code") || code.contains("allow(unsafe_code");
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    waived || code.split(|c| !word(c)).any(|w| w == "unsafe")
}

/// The line without its string literals and its comment.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut chars = line.chars().peekable();
    let mut text = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if text => {
                chars.next();
            }
            '"' => text = !text,
            '/' if !text && chars.peek() == Some(&'/') => break,
            c if !text => code.push(c),
            _ => {}
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_code_not_text() {
        assert!(is_unsafe("    let x = unsafe { y() };"));
        assert!(is_unsafe("unsafe impl Send for X {}"));
        assert!(is_unsafe("#![expect(unsafe_code, reason = \"x\")]"));
        assert!(!is_unsafe("// unsafe is not used"));
        assert!(!is_unsafe("let t = \"unsafe { \\\" }\"; // unsafe"));
        assert!(!is_unsafe("mod unsafe_code;"));
    }
}
