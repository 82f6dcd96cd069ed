//! From JSON values to request structs, by the rules of the original server (`spec/http-api.md` §2.2): field names match whatever their case,
//! `null` leaves what is there, the last duplicate wins, a value of the wrong kind is an error with the original's text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::scan::{Node, ScanError, scan};

/// A body that is not the request it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A value of the wrong kind or out of range.
    #[error("json: cannot unmarshal {value} into Go {place} of type {kind}")]
    Mismatch {
        /// What stands there: `string`, `number 1.5`, ...
        value: String,
        /// Where: `struct field messageSendReq.channel_id`, or `value`.
        place: String,
        /// Type name of the original.
        kind: &'static str,
    },
    /// Not base64.
    #[error("illegal base64 data at input byte {0}")]
    Base64(usize),
}

/// Decodes a whole body.
///
/// # Errors
/// [`DecodeError`] with the text to answer.
pub fn decode<T: Decode>(body: &[u8]) -> Result<T, DecodeError> {
    let mut value = T::default();
    value.merge(scan(body)?, &mut Place::default())?;
    Ok(value)
}

/// Where in the request the decoder is: (struct, field) from the outermost inwards.
#[derive(Debug, Default)]
pub struct Place(Vec<(&'static str, &'static str)>);

impl Place {
    pub(crate) fn enter(&mut self, owner: &'static str, field: &'static str) {
        self.0.push((owner, field));
    }

    pub(crate) fn leave(&mut self) {
        self.0.pop();
    }

    pub(crate) fn mismatch(&self, node: &Node, kind: &'static str) -> DecodeError {
        let value = match node {
            Node::Null => "null".to_owned(),
            Node::Bool(_) => "bool".to_owned(),
            Node::Number(_) => "number".to_owned(),
            Node::Text(_) => "string".to_owned(),
            Node::List(_) => "array".to_owned(),
            Node::Object(_) => "object".to_owned(),
        };
        self.refuse(value, kind)
    }

    fn refuse(&self, value: String, kind: &'static str) -> DecodeError {
        let place = match self.0.last() {
            None => "value".to_owned(),
            Some((owner, _)) => {
                let path: Vec<&str> = self.0.iter().map(|(_, field)| *field).collect();
                format!("struct field {owner}.{}", path.join("."))
            }
        };
        DecodeError::Mismatch { value, place, kind }
    }
}

/// Something a JSON value can be decoded into.
pub trait Decode: Default {
    /// Takes over `node`; what is there stays where `node` says nothing.
    ///
    /// # Errors
    /// [`DecodeError`] when the value does not fit.
    fn merge(&mut self, node: Node, place: &mut Place) -> Result<(), DecodeError>;
}

impl Decode for String {
    fn merge(&mut self, node: Node, place: &mut Place) -> Result<(), DecodeError> {
        match node {
            Node::Null => Ok(()),
            Node::Text(text) => {
                *self = text;
                Ok(())
            }
            other => Err(place.mismatch(&other, "string")),
        }
    }
}

macro_rules! integers {
    ($($ty:ty => $go:literal;)*) => {$(
        impl Decode for $ty {
            fn merge(&mut self, node: Node, place: &mut Place) -> Result<(), DecodeError> {
                match node {
                    Node::Null => Ok(()),
                    Node::Number(text) => {
                        *self = text.parse().map_err(|_| place.refuse(format!("number {text}"), $go))?;
                        Ok(())
                    }
                    other => Err(place.mismatch(&other, $go)),
                }
            }
        }
    )*};
}

integers! {
    u8 => "uint8";
    u32 => "uint32";
    u64 => "uint64";
    i64 => "int";
}

impl Decode for Vec<String> {
    fn merge(&mut self, node: Node, place: &mut Place) -> Result<(), DecodeError> {
        match node {
            Node::Null => self.clear(),
            Node::List(nodes) => {
                self.clear();
                for node in nodes {
                    let mut item = String::new();
                    item.merge(node, place)?;
                    self.push(item);
                }
            }
            other => return Err(place.mismatch(&other, "[]string")),
        }
        Ok(())
    }
}

/// Bytes that travel as standard base64 with padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Decode for Blob {
    fn merge(&mut self, node: Node, place: &mut Place) -> Result<(), DecodeError> {
        match node {
            Node::Null => self.0.clear(),
            Node::Text(text) => self.0 = from_base64(text)?,
            Node::List(nodes) => {
                self.0.clear();
                for node in nodes {
                    let mut byte = 0_u8;
                    byte.merge(node, place)?;
                    self.0.push(byte);
                }
            }
            other => return Err(place.mismatch(&other, "[]uint8")),
        }
        Ok(())
    }
}

/// Line ends are skipped, as the original does.
fn from_base64(mut text: String) -> Result<Vec<u8>, DecodeError> {
    text.retain(|c| c != '\r' && c != '\n');
    STANDARD.decode(&text).map_err(|err| {
        DecodeError::Base64(match err {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len(),
        })
    })
}

/// Declares a request: documented fields whose names are the JSON names, and the type name the original's error texts carry.
macro_rules! request {
    ($(#[$meta:meta])* $name:ident as $go:literal { $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, utoipa::ToSchema)]
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty, )* }

        impl $crate::dto::decode::Decode for $name {
            fn merge(
                &mut self,
                node: $crate::dto::scan::Node,
                place: &mut $crate::dto::decode::Place,
            ) -> Result<(), $crate::dto::decode::DecodeError> {
                use $crate::dto::scan::Node;
                match node {
                    Node::Null => Ok(()),
                    Node::Object(members) => {
                        for (key, value) in members {
                            $(
                                if key.eq_ignore_ascii_case(stringify!($field)) {
                                    place.enter($go, stringify!($field));
                                    $crate::dto::decode::Decode::merge(&mut self.$field, value, place)?;
                                    place.leave();
                                    continue;
                                }
                            )*
                        }
                        Ok(())
                    }
                    other => Err(place.mismatch(&other, concat!("api.", $go))),
                }
            }
        }
    };
}

pub(crate) use request;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dto::{MessageSend, UpdateToken};

    fn fails<T: Decode + std::fmt::Debug>(body: &str) -> String {
        decode::<T>(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn names_match_whatever_their_case_and_the_last_wins() {
        let r: UpdateToken = decode(br#"{"UID":"a","uid":"b","Token":"t","x":{"y":[1,{}]},"device_flag":2,"device_flag":1}"#).unwrap();
        assert_eq!(r, UpdateToken { uid: "b".into(), token: "t".into(), device_flag: 1, device_level: 0 });
    }

    #[test]
    fn null_leaves_what_is_there() {
        let r: UpdateToken = decode(br#"{"uid":"a","uid":null,"token":null}"#).unwrap();
        assert_eq!(r, UpdateToken { uid: "a".into(), ..UpdateToken::default() });
        assert_eq!(decode::<UpdateToken>(b"null"), Ok(UpdateToken::default()));
        let list: Vec<String> = decode(br#"["a",null,"b"]"#).unwrap();
        assert_eq!(list, ["a", "", "b"]);
        assert_eq!(decode::<Vec<String>>(b"null"), Ok(vec![]));
    }

    #[test]
    fn wrong_kinds_have_the_texts_of_the_original() {
        for (body, text) in [
            (r#"{"uid":1}"#, "json: cannot unmarshal number into Go struct field UpdateTokenReq.uid of type string"),
            (r#"{"device_flag":"1"}"#, "json: cannot unmarshal string into Go struct field UpdateTokenReq.device_flag of type uint8"),
            (r#"{"device_flag":256}"#, "json: cannot unmarshal number 256 into Go struct field UpdateTokenReq.device_flag of type uint8"),
            (r#"{"device_flag":-1}"#, "json: cannot unmarshal number -1 into Go struct field UpdateTokenReq.device_flag of type uint8"),
            (r#"{"device_flag":1.0}"#, "json: cannot unmarshal number 1.0 into Go struct field UpdateTokenReq.device_flag of type uint8"),
            (r#"{"device_flag":true}"#, "json: cannot unmarshal bool into Go struct field UpdateTokenReq.device_flag of type uint8"),
            (r#"[]"#, "json: cannot unmarshal array into Go value of type api.UpdateTokenReq"),
            (r#""#, "EOF"),
        ] {
            assert_eq!(fails::<UpdateToken>(body), text, "{body}");
        }
        assert_eq!(fails::<Vec<String>>("{}"), "json: cannot unmarshal object into Go value of type []string");
        assert_eq!(
            fails::<MessageSend>(r#"{"header":{"no_persist":true}}"#),
            "json: cannot unmarshal bool into Go struct field MessageHeader.header.no_persist of type int"
        );
        assert_eq!(fails::<MessageSend>(r#"{"payload":"a*=="}"#), "illegal base64 data at input byte 1");
    }

    #[test]
    fn payloads_are_base64_and_nested_objects_merge() {
        let r: MessageSend = decode(br#"{"payload":"aGk=","header":{"red_dot":1},"header":{"sync_once":1}}"#).unwrap();
        assert_eq!(r.payload, Blob(b"hi".to_vec()));
        assert_eq!((r.header.red_dot, r.header.sync_once, r.header.no_persist), (1, 1, 0));
    }
}
