//! The seed corpus of the fuzz targets and inputs mutated from it, through the same checks, on stable.

use crate::fixture::crate_dir;

#[path = "../../fuzz/checks.rs"]
mod checks;

/// Mutants per file of the corpus. With the present corpus a run takes about a second.
const MUTANTS: usize = 60;

/// xorshift64: the same mutants in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        const MEAN: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\\', b'{', b'}', b'[', b' ', b'\r'];
        if self.below(2) == 0 { MEAN[self.below(MEAN.len())] } else { u8::try_from(self.below(256)).unwrap() }
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.byte()),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                4 => {
                    let from = self.below(other.len() + 1);
                    bytes.splice(at.., other[from..].iter().copied());
                }
                _ if at < bytes.len() => bytes[at] = self.byte(),
                _ => {}
            }
        }
    }
}

fn replay(target: &str, check: fn(&[u8])) {
    let mut paths: Vec<_> =
        std::fs::read_dir(crate_dir().join("fuzz/corpus").join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let corpus: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(corpus.len() >= 8, "the corpus of {target} is missing");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (bytes, path) in corpus.iter().zip(&paths) {
        check(bytes);
        for mutant in 0..MUTANTS {
            let mut mutated = bytes.clone();
            let other = &corpus[random.below(corpus.len())];
            random.mutate(&mut mutated, other);
            let shown = mutated.clone();
            let result = std::panic::catch_unwind(move || check(&mutated));
            assert!(result.is_ok(), "mutant {mutant} of {path:?}: {shown:02x?}");
        }
    }
}

#[test]
fn frames() {
    replay("frame", checks::frame);
}

#[test]
fn json_texts() {
    replay("jsonrpc", checks::jsonrpc);
}

#[test]
fn proxy_headers() {
    replay("proxy", checks::proxy);
}

#[test]
fn first_bytes() {
    replay("detect", checks::detect);
}
