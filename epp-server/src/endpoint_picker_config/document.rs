//! A YAML document whose parts know where they stand, so that what is wrong can be named with line and column.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_norway::Value;

/// One step from a part of a document into it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Fault {
    path: Vec<Step>,
    /// Whether the last key itself is wrong, not what stands there.
    is_key: bool,
    message: String,
}

impl Fault {
    /// The message with path, line and column in the text that the document was read from.
    pub(super) fn describe(&self, text: &str) -> String {
        let deserializer = serde_norway::Deserializer::from_str(text);
        match (Walk { fault: self, at: 0 }).deserialize(deserializer) {
            Err(error) => error.to_string(),
            // Only where aliases lead back to an earlier place.
            Ok(()) => self.message.clone(),
        }
    }
}

/// A part of a document.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    value: &'a Value,
    path: Vec<Step>,
}

impl<'a> Node<'a> {
    /// The whole document.
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, path: Vec::new() }
    }

    /// What stands under a key; nothing where there is no map, no such key, or no value.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key)?;
        (!value.is_null()).then(|| self.step(value, Step::Key(key.to_owned())))
    }

    /// The elements of a list.
    pub(super) fn elements(&self) -> Result<Vec<Self>, Fault> {
        let Value::Sequence(elements) = self.value else { return Err(self.fault("must be a list")) };
        Ok((0..).zip(elements).map(|(at, value)| self.step(value, Step::Index(at))).collect())
    }

    /// The elements of the list under a key; none where there is no such key.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Self>, Fault> {
        self.get(key).map_or_else(|| Ok(Vec::new()), |list| list.elements())
    }

    /// The keys of a map with what stands under them.
    pub(super) fn entries(&self) -> Result<Vec<(&'a str, Self)>, Fault> {
        let Value::Mapping(map) = self.value else { return Err(self.fault("must be a map")) };
        let entry = |(key, value): (&'a Value, &'a Value)| {
            let key = key.as_str().ok_or_else(|| self.fault("keys must be texts"))?;
            Ok((key, self.step(value, Step::Key(key.to_owned()))))
        };
        map.iter().map(entry).collect()
    }

    /// A text that is not empty.
    pub(super) fn text(&self) -> Result<&'a str, Fault> {
        match self.value.as_str() {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(self.fault("must be a text")),
        }
    }

    /// The text under a key that must be there.
    pub(super) fn required(&self, key: &str) -> Result<&'a str, Fault> {
        self.get(key).ok_or_else(|| self.fault(&format!("`{key}` is missing")))?.text()
    }

    /// A number in a range.
    pub(super) fn number(&self, min: f64, max: f64) -> Result<f64, Fault> {
        match self.value.as_f64() {
            Some(number) if (min..=max).contains(&number) => Ok(number),
            _ if max == f64::MAX => Err(self.fault(&format!("must be a number of {min} or more"))),
            _ => Err(self.fault(&format!("must be a number from {min} to {max}"))),
        }
    }

    /// A whole number in a range.
    pub(super) fn whole(&self, min: u32, max: u32) -> Result<u32, Fault> {
        let number = self.value.as_f64().filter(|number| number.fract() == 0.0);
        match number {
            Some(number) if (f64::from(min)..=f64::from(max)).contains(&number) => Ok(number as u32),
            _ => Err(self.fault(&format!("must be a whole number from {min} to {max}"))),
        }
    }

    /// A whole number of 0 or more.
    pub(super) fn count(&self) -> Result<u64, Fault> {
        self.value.as_u64().ok_or_else(|| self.fault("must be a whole number of 0 or more"))
    }

    /// True or false.
    pub(super) fn boolean(&self) -> Result<bool, Fault> {
        self.value.as_bool().ok_or_else(|| self.fault("must be true or false"))
    }

    /// Refuses every key that is not one of these, and everything that is not a map.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Fault> {
        let Value::Mapping(map) = self.value else { return Err(self.fault("must be a map")) };
        for key in map.keys() {
            let key = key.as_str().ok_or_else(|| self.fault("keys must be texts"))?;
            if known.contains(&key) {
                continue;
            }
            let hint = match nearest(key, known.iter().copied()) {
                Some(nearest) => format!("the nearest known one is `{nearest}`"),
                None if known.is_empty() => "there are none".to_owned(),
                None => format!("known are `{}`", known.join("`, `")),
            };
            let mut path = self.path.clone();
            path.push(Step::Key(key.to_owned()));
            return Err(Fault { path, is_key: true, message: format!("unknown field, {hint}: `{key}`") });
        }
        Ok(())
    }

    /// Says that this part is wrong; a scalar is repeated.
    pub(super) fn fault(&self, message: &str) -> Fault {
        let shown = match self.value {
            Value::String(text) => format!(": `{text}`"),
            Value::Number(number) => format!(": `{number}`"),
            Value::Bool(boolean) => format!(": `{boolean}`"),
            _ => String::new(),
        };
        Fault { path: self.path.clone(), is_key: false, message: format!("{message}{shown}") }
    }

    fn step(&self, value: &'a Value, step: Step) -> Self {
        let mut path = self.path.clone();
        path.push(step);
        Self { value, path }
    }
}

/// The name that is most like another one, if any is.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.4)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

/// Walks to a fault and raises it there, for the parser to add line and column.
struct Walk<'a> {
    fault: &'a Fault,
    at: usize,
}

impl Walk<'_> {
    fn next(&self) -> Self {
        Self { at: self.at + 1, ..*self }
    }

    fn is_last(&self) -> bool {
        self.at == self.fault.path.len()
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what stood here before")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.raise()
    }

    fn visit_bool<E: serde::de::Error>(self, _value: bool) -> Result<(), E> {
        self.raise()
    }

    fn visit_i64<E: serde::de::Error>(self, _value: i64) -> Result<(), E> {
        self.raise()
    }

    fn visit_u64<E: serde::de::Error>(self, _value: u64) -> Result<(), E> {
        self.raise()
    }

    fn visit_f64<E: serde::de::Error>(self, _value: f64) -> Result<(), E> {
        self.raise()
    }

    fn visit_str<E: serde::de::Error>(self, _value: &str) -> Result<(), E> {
        self.raise()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        if self.is_last() {
            return self.raise();
        }
        let mut at = 0;
        loop {
            let is_next = self.fault.path.get(self.at) == Some(&Step::Index(at));
            let ended = match is_next {
                true => elements.next_element_seed(self.next())?.is_none(),
                false => elements.next_element::<IgnoredAny>()?.is_none(),
            };
            if ended {
                return Ok(());
            }
            at += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        if self.is_last() {
            return self.raise();
        }
        while let Some(is_next) = entries.next_key_seed(KeyOnTheWay(&self))? {
            match is_next {
                true => entries.next_value_seed(self.next())?,
                false => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

impl Walk<'_> {
    fn raise<E: serde::de::Error>(&self) -> Result<(), E> {
        Err(E::custom(&self.fault.message))
    }
}

/// Whether a key is the next step; raises the fault if it is the key that is wrong.
struct KeyOnTheWay<'a>(&'a Walk<'a>);

impl<'de> DeserializeSeed<'de> for KeyOnTheWay<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyOnTheWay<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        let walk = self.0;
        let is_next = matches!(walk.fault.path.get(walk.at), Some(Step::Key(next)) if next == key);
        if is_next && walk.fault.is_key && walk.next().is_last() {
            return Err(E::custom(&walk.fault.message));
        }
        Ok(is_next)
    }
}
