//! Licences of everything we build with (design/dependencies.md).

use crate::rules::verdict;
use crate::workspace::Metadata;

const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-3-Clause",
    "BSD-2-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
    "CDLA-Permissive-2.0",
];

pub(crate) fn check(metadata: &Metadata) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let name = format!("{} {}", package.name, package.version);
        match &package.license {
            Some(expression) if accepted(expression) => {}
            Some(expression) => problems.push(format!("{name}: {expression} is not on the allow-list")),
            None => problems.push(format!("{name}: no licence expression (file: {})", package.license_file.as_deref().unwrap_or("none"))),
        }
    }
    verdict(problems)
}

/// True when the expression can be met with allowed licences only. `AND` binds stronger than `OR`; the old `/` means `OR`.
fn accepted(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, at: 0 };
    let value = parser.any();
    value && parser.at == words.len()
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl Parser<'_> {
    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> bool {
        let mut value = self.all();
        while self.take("OR") {
            value |= self.all();
        }
        value
    }

    fn all(&mut self) -> bool {
        let mut value = self.one();
        while self.take("AND") {
            value &= self.one();
        }
        value
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let value = self.any();
            return self.take(")") && value;
        }
        let Some(name) = self.words.get(self.at) else { return false };
        self.at += 1;
        if self.take("WITH") {
            let full = format!("{name} WITH {}", self.words.get(self.at).unwrap_or(&""));
            self.at += 1;
            return ALLOWED.contains(&full.as_str());
        }
        ALLOWED.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for ok in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
            "(Apache-2.0 OR MIT) AND BSD-3-Clause",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
            "Unlicense OR MIT",
        ] {
            assert!(accepted(ok), "{ok}");
        }
        for bad in
            ["GPL-3.0", "MIT AND GPL-3.0", "(MIT", "", "MIT MIT", "LGPL-2.1 OR (MIT AND MPL-2.0)", "GPL-2.0 WITH Classpath-exception-2.0"]
        {
            assert!(!accepted(bad), "{bad}");
        }
    }
}
