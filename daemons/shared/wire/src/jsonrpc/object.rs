//! The members of a JSON object, with their values as raw text, and the lookup by any spelling of a key.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::JSON_MEMBERS_MAX;

/// Members in the order of the text.
pub(super) struct Object<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// A lookup needed the snake_case spelling.
    snake: Cell<bool>,
}

impl<'a> Object<'a> {
    /// The value of `key`, which is camelCase. `null` counts as absent, and of equal keys the last one holds, both as in the reference.
    pub(super) fn get(&self, key: &str) -> Option<&'a RawValue> {
        let exact = self.find(|name| name == key);
        let found = exact.or_else(|| self.find(|name| name.eq_ignore_ascii_case(key))).or_else(|| {
            let value = self.find(|name| name.contains('_') && is_snake_of(name, key));
            self.snake.set(self.snake.get() || value.is_some());
            value
        });
        found.filter(|value| value.get() != "null")
    }

    /// The value of exactly `key`, also when it is `null`.
    pub(super) fn get_exact(&self, key: &str) -> Option<&'a RawValue> {
        self.find(|name| name == key)
    }

    /// True when a lookup so far found a value only under the snake_case spelling of its key.
    pub(super) fn used_snake_case(&self) -> bool {
        self.snake.get()
    }

    fn find(&self, matches: impl Fn(&str) -> bool) -> Option<&'a RawValue> {
        self.members.iter().rev().find(|(name, _)| matches(name)).map(|(_, value)| *value)
    }
}

/// Is `name` the snake_case spelling of the camelCase `key`?
fn is_snake_of(name: &str, key: &str) -> bool {
    name.bytes().eq(snake_case(key))
}

/// The bytes of the snake_case spelling of `key`: an underscore and the small letter for each capital.
pub(super) fn snake_case(key: &str) -> impl Iterator<Item = u8> {
    key.bytes().flat_map(|byte| {
        let underscore = byte.is_ascii_uppercase().then_some(b'_');
        underscore.into_iter().chain([byte.to_ascii_lowercase()])
    })
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((Key(name), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
            if members.len() >= JSON_MEMBERS_MAX {
                return Err(A::Error::custom("too many members"));
            }
            members.push((name, value));
        }
        Ok(Object { members, snake: Cell::new(false) })
    }
}

/// A member's name, borrowed unless it has escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl<'de> Visitor<'de> for Name {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Name)
    }
}
