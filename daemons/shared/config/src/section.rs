//! One macro that declares a section once: its struct, its defaults and its keys.

/// Declares a section: documented fields with type, default, key (camelCase, relative to the section) and, where there is one, the range.
macro_rules! section {
    (
        $(#[$meta:meta])*
        $name:ident {
            $( $(#[$fmeta:meta])* $field:ident : $ty:ty = $default:expr, $key:literal $(, $range:expr)? ; )*
        }
        $( sections { $( $(#[$smeta:meta])* $sub:ident : $subty:ty = $subkey:literal ; )* } )?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $ty, )*
            $( $( $(#[$smeta])* pub $sub: $subty, )* )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $field: $default, )*
                    $( $( $sub: <$subty>::default(), )* )?
                }
            }
        }

        impl $crate::section::Section for $name {
            fn walk(&mut self, walk: &mut dyn $crate::section::Walk) {
                $( section!(@field walk, $key, &mut self.$field $(, $range)?); )*
                $( $(
                    walk.enter($subkey);
                    $crate::section::Section::walk(&mut self.$sub, walk);
                    walk.leave();
                )* )?
            }
        }
    };
    (@field $walk:ident, $key:literal, $slot:expr) => {
        $walk.field($key, $slot, None);
    };
    (@field $walk:ident, $key:literal, $slot:expr, $range:expr) => {
        {
            let range = $crate::section::Bounds::new($range);
            $crate::section::ranged($walk, $key, $slot, &range);
        }
    };
}

use std::ops::RangeInclusive;

use crate::value::Value;

/// Something with keys.
pub(crate) trait Section {
    /// Visits every key in the order of declaration.
    fn walk(&mut self, walk: &mut dyn Walk);
}

/// What a visit does with each key: set it, show it, or collect its name.
pub(crate) trait Walk {
    /// One key of the current section. `check` refuses values outside the range and says what is allowed.
    fn field(&mut self, key: &'static str, slot: &mut dyn Value, check: Option<&dyn Check>);
    /// Goes into a section; its name may hold dots.
    fn enter(&mut self, section: &str);
    /// Comes back from it.
    fn leave(&mut self);
}

/// A condition on one value.
pub(crate) trait Check {
    /// What is allowed, when the slot's present value is not.
    fn refuse(&self, slot: &dyn Value) -> Option<String>;
}

/// An inclusive range.
pub(crate) struct Bounds<T>(RangeInclusive<T>);

impl<T> Bounds<T> {
    pub(crate) fn new(range: RangeInclusive<T>) -> Self {
        Self(range)
    }
}

impl<T: Value + PartialOrd> Check for Bounds<T> {
    fn refuse(&self, slot: &dyn Value) -> Option<String> {
        let value = slot.as_any().downcast_ref::<T>()?;
        (!self.0.contains(value)).then(|| format!("{} to {}", self.0.start().show(), self.0.end().show()))
    }
}

/// Visits a key whose value has a range of the same type.
pub(crate) fn ranged<T: Value + PartialOrd>(walk: &mut dyn Walk, key: &'static str, slot: &mut T, range: &Bounds<T>) {
    walk.field(key, slot, Some(range));
}
