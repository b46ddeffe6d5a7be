//! `MessagePack`, item by item.

use rmp::Marker;
use rmp::decode::bytes::Bytes;
use rmp::decode::{RmpRead, read_marker};

use super::EngineHash;
use crate::Error;

/// One item; of an array or a map only its length.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item<'a> {
    Nil,
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Text(&'a [u8]),
    Binary(&'a [u8]),
    Array(u32),
    Map(u32),
    Other,
}

impl Item<'_> {
    pub(super) fn number(self, field: &str) -> Result<f64, Error> {
        match self {
            Self::Nil => Ok(0.0),
            Self::Float(number) => Ok(number),
            Self::Unsigned(number) => Ok(number as f64),
            _ => Err(invalid(&format!("`{field}` must be a number"))),
        }
    }

    pub(super) fn integer(self, field: &str) -> Result<Option<u32>, Error> {
        match self {
            Self::Nil => Ok(None),
            Self::Unsigned(number) if u32::try_from(number).is_ok() => Ok(Some(number as u32)),
            _ => Err(invalid(&format!("`{field}` must be an integer from 0 to {}", u32::MAX))),
        }
    }

    pub(super) fn name(self, field: &str) -> Result<Option<String>, Error> {
        match self {
            Self::Nil => Ok(None),
            Self::Text(text) => Ok(Some(String::from_utf8_lossy(text).into_owned())),
            Self::Unsigned(number) => Ok(Some(number.to_string())),
            _ => Err(invalid(&format!("`{field}` must be text or an integer"))),
        }
    }

    pub(super) fn block_hash(self, field: &str) -> Result<Option<EngineHash>, Error> {
        match self {
            Self::Nil => Ok(None),
            Self::Unsigned(hash) => Ok(Some(EngineHash::from(hash))),
            Self::Negative(hash) => Ok(Some(EngineHash::from(hash))),
            Self::Binary(bytes) | Self::Text(bytes) => Ok(Some(EngineHash::from_bytes(bytes))),
            _ => Err(invalid(&format!("`{field}` must be an integer or bytes"))),
        }
    }
}

/// Reads items from bytes and never past their end.
pub(super) struct Reader<'a> {
    bytes: Bytes<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: Bytes::new(bytes) }
    }

    pub(super) fn item(&mut self) -> Result<Item<'a>, Error> {
        let marker = read_marker(&mut self.bytes).map_err(|_| truncated())?;
        Ok(match marker {
            Marker::Null => Item::Nil,
            Marker::True | Marker::False => Item::Other,
            Marker::FixPos(number) => Item::Unsigned(number.into()),
            Marker::FixNeg(number) => signed(number.into()),
            Marker::FixStr(length) => Item::Text(self.take(length.into())?),
            Marker::FixArray(length) => Item::Array(length.into()),
            Marker::FixMap(length) => Item::Map(length.into()),
            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Reserved => return Err(invalid("the payload is not MessagePack")),
            _ => self.long_item(marker)?,
        })
    }

    /// Items whose value or length has bytes of its own.
    fn long_item(&mut self, marker: Marker) -> Result<Item<'a>, Error> {
        let bytes = &mut self.bytes;
        let item = match marker {
            Marker::I8 => bytes.read_data_i8().map(|number| signed(number.into())),
            Marker::I16 => bytes.read_data_i16().map(|number| signed(number.into())),
            Marker::I32 => bytes.read_data_i32().map(|number| signed(number.into())),
            Marker::I64 => bytes.read_data_i64().map(signed),
            Marker::F32 => bytes.read_data_f32().map(|number| Item::Float(number.into())),
            Marker::F64 => bytes.read_data_f64().map(Item::Float),
            Marker::U64 => bytes.read_data_u64().map(Item::Unsigned),
            Marker::U8 | Marker::Str8 | Marker::Bin8 | Marker::Ext8 => {
                bytes.read_data_u8().map(|number| Item::Unsigned(number.into()))
            }
            Marker::U16 | Marker::Str16 | Marker::Bin16 | Marker::Ext16 | Marker::Array16 | Marker::Map16 => {
                bytes.read_data_u16().map(|number| Item::Unsigned(number.into()))
            }
            _ => bytes.read_data_u32().map(|number| Item::Unsigned(number.into())),
        };
        let item = item.map_err(|_| truncated())?;
        let Item::Unsigned(number) = item else { return Ok(item) };
        // What is read as a length has 32 bits at most.
        let length = number as u32;
        Ok(match marker {
            Marker::Str8 | Marker::Str16 | Marker::Str32 => Item::Text(self.take(length)?),
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => Item::Binary(self.take(length)?),
            Marker::Ext8 | Marker::Ext16 | Marker::Ext32 => self.extension(length)?,
            Marker::Array16 | Marker::Array32 => Item::Array(length),
            Marker::Map16 | Marker::Map32 => Item::Map(length),
            _ => item,
        })
    }

    fn extension(&mut self, length: u32) -> Result<Item<'a>, Error> {
        self.take(1)?;
        self.take(length)?;
        Ok(Item::Other)
    }

    fn take(&mut self, length: u32) -> Result<&'a [u8], Error> {
        let rest = self.bytes.remaining_slice();
        let (taken, rest) = rest.split_at_checked(length as usize).ok_or_else(truncated)?;
        self.bytes = Bytes::new(rest);
        Ok(taken)
    }

    /// The length of an array that begins here, 0 for nil.
    pub(super) fn array(&mut self, field: &str) -> Result<u32, Error> {
        match self.item()? {
            Item::Array(length) => Ok(length),
            Item::Nil => Ok(0),
            _ => Err(invalid(&format!("`{field}` must be an array"))),
        }
    }

    /// An array whose items are all of one kind and none of them nil.
    pub(super) fn list<T>(
        &mut self,
        field: &str,
        read: impl Fn(Item<'a>) -> Result<Option<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        let length = self.array(field)?;
        // Each item takes a byte at least, so a length that is not true reserves little.
        let mut values = Vec::with_capacity(self.bytes.remaining_slice().len().min(length as usize));
        for _ in 0..length {
            let value = read(self.item()?)?;
            values.push(value.ok_or_else(|| invalid(&format!("`{field}` must not hold nil")))?);
        }
        Ok(values)
    }

    /// The text that begins here; nothing is read if it is not text.
    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let mut ahead = Reader { bytes: self.bytes };
        let Ok(Item::Text(text)) = ahead.item() else { return None };
        *self = ahead;
        Some(text)
    }

    /// The encoded form of the next item with all that it contains.
    pub(super) fn encoded(&mut self) -> Result<&'a [u8], Error> {
        let before = self.bytes.remaining_slice();
        self.skip()?;
        let length = before.len() - self.bytes.remaining_slice().len();
        Ok(before.get(..length).unwrap_or_default())
    }

    /// Skips the next item with all that it contains.
    pub(super) fn skip(&mut self) -> Result<(), Error> {
        let mut left = 1_u64;
        while left > 0 {
            left -= 1;
            match self.item()? {
                Item::Array(length) => left += u64::from(length),
                Item::Map(length) => left += 2 * u64::from(length),
                _ => {}
            }
        }
        Ok(())
    }
}

fn signed<'a>(number: i64) -> Item<'a> {
    u64::try_from(number).map_or(Item::Negative(number), Item::Unsigned)
}

fn truncated() -> Error {
    invalid("the payload ends too early")
}

pub(super) fn invalid(message: &str) -> Error {
    Error::InvalidKvEvent(message.to_owned())
}
