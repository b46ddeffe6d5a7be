//! Reads the `MessagePack` payload of an event batch.

use std::mem;

use xxhash_rust::xxh3::xxh3_64;

use super::reader::{Item, Reader, invalid};
use super::{BlocksRemoved, BlocksStored, EngineHash, KvEvent, KvEventBatch};
use crate::Error;

impl KvEventBatch {
    /// Reads the payload of a message that vLLM or SGLang published, with the sequence number that came beside it.
    ///
    /// Both forms of events are understood, arrays (`["BlockStored", …]`, vLLM up to 0.21 at least) and maps
    /// (`{"type": "BlockStored", …}`). Events and fields that are not known are skipped, omitted ones have their defaults.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKvEvent`] when the payload is not `MessagePack` or a known field has another type; the message says
    /// which.
    ///
    /// # Complexity
    ///
    /// One pass over the payload; memory proportional to it, whatever lengths it claims.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched::kv_event::{KvEvent, KvEventBatch};
    ///
    /// let payload = b"\x93\xcb\x40\x59\0\0\0\0\0\0\x91\x91\xb0AllBlocksCleared\x01";
    /// let batch = KvEventBatch::decode(payload, 7)?;
    /// assert_eq!((batch.sequence, batch.timestamp, batch.rank), (7, 100.0, 1));
    /// assert_eq!(batch.events, [KvEvent::Cleared]);
    /// # Ok::<(), p3sched::Error>(())
    /// ```
    pub fn decode(payload: &[u8], sequence: u64) -> Result<Self, Error> {
        let mut reader = Reader::new(payload);
        let Item::Array(fields) = reader.item()? else {
            return Err(invalid("a batch must be an array"));
        };
        if fields < 2 {
            return Err(invalid(&format!("a batch must have two fields or more: `{fields}`")));
        }
        let mut batch = Self { sequence, ..Self::default() };
        batch.timestamp = reader.item()?.number("timestamp")?;
        let Item::Array(events) = reader.item()? else {
            return Err(invalid("the events of a batch must be an array"));
        };
        for _ in 0..events {
            batch.events.extend(Fields::read(&mut reader)?.into_event()?);
        }
        if fields > 2 {
            batch.rank = reader.item()?.integer("data_parallel_rank")?.unwrap_or(0);
        }
        Ok(batch)
    }
}

/// The fields of an event, of whatever type and in whatever order.
#[derive(Default)]
struct Fields<'a> {
    event_type: &'a [u8],
    block_hashes: Vec<EngineHash>,
    parent: Option<EngineHash>,
    token_ids: Vec<u32>,
    block_size: u32,
    lora_id: Option<String>,
    lora_name: Option<String>,
    cache_salt: Option<String>,
    /// By block.
    extra_keys: Vec<Vec<ExtraKey<'a>>>,
    medium: Option<String>,
    group: Option<u32>,
    attention: Option<String>,
}

/// Something besides tokens that identifies a block.
enum ExtraKey<'a> {
    Text(&'a [u8]),
    /// The encoded form of anything else.
    Encoded(&'a [u8]),
}

/// Fields of the array form after the type, in their order.
const STORED: &[&[u8]] = &[
    b"block_hashes",
    b"parent_block_hash",
    b"token_ids",
    b"block_size",
    b"lora_id",
    b"medium",
    b"lora_name",
    b"extra_keys",
    b"group_idx",
    b"kv_cache_spec_kind",
];
const REMOVED: &[&[u8]] = &[b"block_hashes", b"medium", b"group_idx"];

impl<'a> Fields<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let mut fields = Self::default();
        match reader.item()? {
            Item::Map(count) => {
                for _ in 0..count {
                    let Item::Text(name) = reader.item()? else {
                        return Err(invalid("the names of an event's fields must be text"));
                    };
                    fields.field(name, reader)?;
                }
            }
            Item::Array(count) if count > 0 => {
                fields.field(b"type", reader)?;
                let order = if fields.event_type == b"BlockStored" { STORED } else { REMOVED };
                let is_known = matches!(fields.event_type, b"BlockStored" | b"BlockRemoved");
                for position in 0..count as usize - 1 {
                    let name = order.get(position).filter(|_| is_known).copied();
                    fields.field(name.unwrap_or_default(), reader)?;
                }
            }
            _ => return Err(invalid("an event must be a map or an array that begins with its type")),
        }
        Ok(fields)
    }

    fn field(&mut self, name: &[u8], reader: &mut Reader<'a>) -> Result<(), Error> {
        match name {
            b"type" => {
                let Item::Text(event_type) = reader.item()? else {
                    return Err(invalid("`type` of an event must be text"));
                };
                self.event_type = event_type;
            }
            b"block_hashes" => {
                self.block_hashes = reader.list("block_hashes", |item| item.block_hash("block_hashes"))?;
            }
            b"token_ids" => self.token_ids = reader.list("token_ids", |item| item.integer("token_ids"))?,
            b"parent_block_hash" => self.parent = reader.item()?.block_hash("parent_block_hash")?,
            b"block_size" => self.block_size = reader.item()?.integer("block_size")?.unwrap_or(0),
            b"lora_id" => self.lora_id = reader.item()?.name("lora_id")?,
            b"lora_name" => self.lora_name = reader.item()?.name("lora_name")?,
            b"cache_salt" => self.cache_salt = reader.item()?.name("cache_salt")?,
            b"medium" => self.medium = reader.item()?.name("medium")?,
            b"kv_cache_spec_kind" => self.attention = reader.item()?.name("kv_cache_spec_kind")?,
            b"group_idx" => self.group = reader.item()?.integer("group_idx")?,
            b"extra_keys" => self.extra_keys = extra_keys(reader)?,
            _ => reader.skip()?,
        }
        Ok(())
    }

    /// `None` for an event of a type that is not known.
    fn into_event(mut self) -> Result<Option<KvEvent>, Error> {
        Ok(match self.event_type {
            b"BlockStored" => {
                let media = self.take_media();
                Some(KvEvent::Stored(BlocksStored {
                    media,
                    block_hashes: self.block_hashes,
                    parent: self.parent,
                    token_ids: self.token_ids,
                    block_size: self.block_size,
                    adapter: self.lora_name.or(self.lora_id),
                    cache_salt: self.cache_salt,
                    medium: self.medium,
                    group: self.group,
                    attention: self.attention,
                }))
            }
            b"BlockRemoved" => Some(KvEvent::Removed(BlocksRemoved {
                block_hashes: self.block_hashes,
                medium: self.medium,
                group: self.group,
            })),
            b"AllBlocksCleared" => Some(KvEvent::Cleared),
            b"" => return Err(invalid("an event must have a `type`")),
            _ => None,
        })
    }

    /// Sorts the extra keys: an adapter's name comes first and is known already, the cache salt comes last and only with the
    /// first block of a prompt, and all that is between identifies media.
    fn take_media(&mut self) -> Vec<u64> {
        let mut extra_keys = mem::take(&mut self.extra_keys);
        let adapter = self.lora_name.as_deref().or(self.lora_id.as_deref()).map(str::as_bytes);
        let is_adapter = |key: &ExtraKey<'_>| matches!(key, ExtraKey::Text(text) if Some(*text) == adapter);
        if let Some(keys) = extra_keys.first_mut().filter(|_| self.parent.is_none())
            && let Some(ExtraKey::Text(salt)) = keys.last().filter(|key| keys.len() > 1 || !is_adapter(key))
        {
            self.cache_salt = Some(String::from_utf8_lossy(salt).into_owned());
            keys.pop();
        }
        let media = extra_keys.iter().map(|keys| {
            let skipped = usize::from(keys.first().is_some_and(is_adapter));
            keys.iter().skip(skipped).fold(0_u64, |hash, key| {
                let (ExtraKey::Text(bytes) | ExtraKey::Encoded(bytes)) = key;
                hash.rotate_left(17) ^ xxh3_64(bytes)
            })
        });
        let media: Vec<u64> = media.collect();
        if media.iter().any(|&hash| hash != 0) { media } else { Vec::new() }
    }
}

fn extra_keys<'a>(reader: &mut Reader<'a>) -> Result<Vec<Vec<ExtraKey<'a>>>, Error> {
    let blocks = reader.array("extra_keys")?;
    let mut extra_keys = Vec::new();
    for _ in 0..blocks {
        let mut keys = Vec::new();
        for _ in 0..reader.array("extra_keys")? {
            keys.push(match reader.text() {
                Some(text) => ExtraKey::Text(text),
                None => ExtraKey::Encoded(reader.encoded()?),
            });
        }
        extra_keys.push(keys);
    }
    Ok(extra_keys)
}
