//! Values of keys that the original does not have.

use std::any::Any;

use super::{Raw, Value};

/// A value of which 0 is one like any other, to be taken or refused by its range: 0 means "not set" in keys of the original alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
pub struct Exact<T>(pub T);

impl<T: Value + Default> Value for Exact<T> {
    fn set(&mut self, raw: &Raw) -> Result<bool, String> {
        let mut value = T::default();
        if !value.set(raw)? && raw.text()?.is_empty() {
            return Ok(false);
        }
        // Text that is no value and no error is a zero, which is the default of a number and of a duration.
        self.0 = value;
        Ok(true)
    }
    fn show(&self) -> String {
        self.0.show()
    }
    fn is_secret(&self) -> bool {
        self.0.is_secret()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn zero_is_a_value_and_empty_is_not() {
        let set = |value: &mut dyn Value, text: &str| value.set(&Raw::Text(text.into()));
        let (mut number, mut share, mut time) = (Exact(3u16), Exact(0.2), Exact(Duration::from_secs(1)));
        assert_eq!((set(&mut number, ""), number.0), (Ok(false), 3));
        assert_eq!((set(&mut number, "0"), number.0), (Ok(true), 0));
        assert_eq!((set(&mut share, "0"), share.0), (Ok(true), 0.0));
        assert_eq!((set(&mut share, "0.35"), share.0, share.show().as_str()), (Ok(true), 0.35, "0.35"));
        assert_eq!((set(&mut time, "0"), time.0), (Ok(true), Duration::ZERO));
        for nonsense in ["x", "nan", "inf", "-"] {
            assert!(set(&mut share, nonsense).is_err(), "{nonsense}");
        }
    }
}
