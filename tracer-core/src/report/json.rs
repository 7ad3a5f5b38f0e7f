//! JSON as `serde_json` writes it, in less than half of its instructions: a report has three times as many names of fields
//! as texts, and `serde_json` looks at each letter of both for what must be escaped. Here names are written as they are, as
//! Rust's have nothing to escape, and so is a text in which nothing is; numbers and other texts are `serde_json`'s work.
//! Each report becomes such a line, in `observe` and in the agent, and with `serde_json` alone (`simd-json` and `sonic-rs`
//! were no quicker) that was the dearest thing that was done for a session.

use serde::{
    Serialize, Serializer,
    ser::{Error as _, Impossible, SerializeSeq, SerializeStruct},
};
use serde_json::Error;

/// Writes a value and a line end behind what is there.
///
/// # Errors
/// It is not made of structures, lists, texts, whole numbers and options alone.
pub(super) fn write(value: &impl Serialize, to: &mut Vec<u8>) -> Result<(), Error> {
    value.serialize(Line(to))?;
    to.push(b'\n');
    Ok(())
}

/// The same as a text of its own, without a line end.
pub(super) fn text(value: &impl Serialize) -> Result<String, Error> {
    let mut line = Vec::with_capacity(LENGTH);
    value.serialize(Line(&mut line))?;
    String::from_utf8(line).map_err(Error::custom)
}

/// Room for most reports, in bytes.
const LENGTH: usize = 1 << 10;

struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn write_unescaped(self, text: &str) {
        self.0.reserve(text.len() + r#""""#.len());
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
    }
}

/// Has a text anything to escape? All bytes are looked at, whatever comes first: so one instruction takes several of them.
fn is_plain(text: &str) -> bool {
    let mark = |byte| u8::from(byte < b' ') | u8::from(byte == b'"') | u8::from(byte == b'\\');
    text.bytes().fold(0, |marks, byte| marks | mark(byte)) == 0
}

/// What serde has that no report has.
fn none_such<T>() -> Result<T, Error> {
    Err(Error::custom("a line is made of structures, lists, texts, whole numbers and options"))
}

macro_rules! as_serde_json {
    ($($method:ident: $type:ty),+) => {
        $(fn $method(self, value: $type) -> Result<(), Error> {
            serde_json::Serializer::new(self.0).$method(value)
        })+
    };
}

macro_rules! not_at_all {
    ($($method:ident<$($generic:ident)?>($($type:ty),*) -> $result:ty;)+) => {
        $(fn $method$(<$generic: Serialize + ?Sized>)?(self, $(_: $type),*) -> Result<$result, Error> {
            none_such()
        })+
    };
}

type Name = &'static str;
type Nothing = Impossible<(), Error>;

impl<'a> Serializer for Line<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeStruct = Parts<'a>;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Nothing;
    type SerializeTupleStruct = Nothing;
    type SerializeTupleVariant = Nothing;
    type SerializeMap = Nothing;
    type SerializeStructVariant = Nothing;

    as_serde_json! {
        serialize_bool: bool,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    }

    not_at_all! {
        serialize_char<>(char) -> ();
        serialize_bytes<>(&[u8]) -> ();
        serialize_f32<>(f32) -> ();
        serialize_f64<>(f64) -> ();
        serialize_unit<>() -> ();
        serialize_unit_struct<>(Name) -> ();
        serialize_newtype_variant<T>(Name, u32, Name, &T) -> ();
        serialize_tuple<>(usize) -> Nothing;
        serialize_tuple_struct<>(Name, usize) -> Nothing;
        serialize_tuple_variant<>(Name, u32, Name, usize) -> Nothing;
        serialize_map<>(Option<usize>) -> Nothing;
        serialize_struct_variant<>(Name, u32, Name, usize) -> Nothing;
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        if !is_plain(text) {
            return serde_json::Serializer::new(self.0).serialize_str(text);
        }
        self.write_unescaped(text);
        Ok(())
    }

    fn serialize_unit_variant(self, _: Name, _: u32, name: Name) -> Result<(), Error> {
        self.write_unescaped(name);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.0.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: Name, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_struct(self, _: Name, _: usize) -> Result<Parts<'a>, Error> {
        Ok(Parts { line: self.0, before: b'{' })
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a>, Error> {
        Ok(Parts { line: self.0, before: b'[' })
    }
}

/// The parts of a structure or a list.
struct Parts<'a> {
    line: &'a mut Vec<u8>,
    /// What comes before the next one.
    before: u8,
}

impl Parts<'_> {
    fn close(self, opening: u8, closing: u8) {
        if self.before == opening {
            self.line.push(opening); // there are none
        }
        self.line.push(closing);
    }
}

impl SerializeStruct for Parts<'_> {
    type Ok = ();
    type Error = Error;

    #[inline(always)] // so that a name is a constant, and copied by a few instructions
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: Name, value: &T) -> Result<(), Error> {
        self.line.reserve(name.len() + r#","":"#.len());
        self.line.extend_from_slice(&[self.before, b'"']);
        self.line.extend_from_slice(name.as_bytes());
        self.line.extend_from_slice(b"\":");
        self.before = b',';
        value.serialize(Line(self.line))
    }

    fn end(self) -> Result<(), Error> {
        self.close(b'{', b'}');
        Ok(())
    }
}

impl SerializeSeq for Parts<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.line.push(self.before);
        self.before = b',';
        value.serialize(Line(self.line))
    }

    fn end(self) -> Result<(), Error> {
        self.close(b'[', b']');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that a report is made of.
    #[derive(Debug, Serialize)]
    struct All {
        text: String,
        none: Option<bool>,
        some: Option<Inner>,
        r#type: Kind,
        list: Vec<Inner>,
        numbers: Vec<i64>,
    }

    #[derive(Debug, Serialize)]
    struct Inner {
        text: String,
        number: u64,
        ip: std::net::IpAddr,
        yes: bool,
    }

    #[derive(Debug, Serialize)]
    struct Nothing {}

    #[derive(Debug, Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        OneOfMany,
    }

    prop_compose! {
        fn inner()(text in ".*", number: u64, ip: std::net::IpAddr, yes: bool) -> Inner {
            Inner { text, number, ip, yes }
        }
    }

    proptest! {
        #[test]
        fn it_is_what_serde_json_writes(
            // Control characters are in `.*`, but rare.
            text in "[\\x00-\\x20\"\\\\a-e\u{7f}é\u{2028}]*",
            some in prop::option::of(inner()),
            list in prop::collection::vec(inner(), 0..3),
            numbers: Vec<i64>,
        ) {
            let all = All { text, none: None, some, r#type: Kind::OneOfMany, list, numbers };
            prop_assert_eq!(super::text(&all).unwrap(), serde_json::to_string(&all).unwrap());
        }
    }

    #[test]
    fn what_is_empty_is_closed() {
        assert_eq!(text(&Nothing {}).unwrap(), "{}");
        assert_eq!(text(&Vec::<u8>::new()).unwrap(), "[]");
    }

    #[test]
    fn what_no_report_has_is_refused() {
        assert!(text(&("a", "pair")).is_err());
        assert!(text(&0.5).is_err());
        assert!(text(&std::collections::BTreeMap::from([(1, 2)])).is_err());
    }
}
