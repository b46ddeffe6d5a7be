//! Why plain data cannot be read, in words that hold for any language: without names of Rust types.
//!
//! Use this in a binding, which gets its configurations and events as JSON text and has words of its own for what is wrong.

/// How a language calls what JSON holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// Its truth values: `true or false`.
    pub booleans: &'static str,
    /// What a list is called, without an article: `array`.
    pub list: &'static str,
    /// What names and values are called, without an article: `object`.
    pub map: &'static str,
}

impl Words {
    /// What is wrong with a value of a wrong type or range: its name, what would be right, and the value; `None` for messages
    /// that say something else.
    ///
    /// `message` is that of `serde_json`, without its place; `column` is where in `text` reading ended, in bytes from 1;
    /// `renamed` spells names of fields as the language does.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched::wrong_value::Words;
    ///
    /// let words = Words { booleans: "true or false", list: "array", map: "object" };
    /// let message = "invalid type: string \"x\", expected u64";
    /// let wrong = words.wrong_value(r#"{"seed":"x"}"#, message, 11, str::to_owned);
    /// assert_eq!(wrong.unwrap(), "seed must be a whole number from 0: `x`");
    /// ```
    pub fn wrong_value(
        &self,
        text: &str,
        message: &str,
        column: usize,
        renamed: fn(&str) -> String,
    ) -> Option<String> {
        let wrong =
            message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
        let (found, expected) = wrong.rsplit_once(", expected ")?;
        let (right, value) = (self.right(expected), self.value(found));
        Some(match field_read_last(text, column) {
            Some(name) => format!("{} must be {right}: `{value}`", renamed(name)),
            None => format!("expected {right}: `{value}`"),
        })
    }

    fn right(&self, expected: &str) -> String {
        match expected {
            "u8" => "a whole number from 0 to 255".to_owned(),
            "u16" => "a whole number from 0 to 65535".to_owned(),
            "u32" => "a whole number from 0 to 4294967295".to_owned(),
            "u64" | "usize" => "a whole number from 0".to_owned(),
            "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
            "f32" | "f64" => "a number".to_owned(),
            "a boolean" => self.booleans.to_owned(),
            "a sequence" => with_article(self.list),
            "string or map" | "variant identifier" | "field identifier" => "a string".to_owned(),
            "a map" => with_article(self.map),
            rust if rust.starts_with("struct ") || rust.contains("enum ") => with_article(self.map),
            other => other.to_owned(),
        }
    }

    fn value<'a>(&self, found: &'a str) -> &'a str {
        match found {
            "sequence" => self.list,
            "map" => self.map,
            // A kind, and a value in quotes of some sort: `integer `-1``, `string "x"`.
            found => {
                found.split_once(['`', '"']).map_or(found, |(_, value)| value.trim_end_matches(['`', '"']))
            }
        }
    }
}

/// The field whose value ends at the column; none where a whole object or array has been read.
pub fn field_read_last(text: &str, column: usize) -> Option<&str> {
    let read = text.get(..column).filter(|read| !read.ends_with(['}', ']']))?;
    let (before, _) = read.rsplit_once("\":")?;
    let (_, name) = before.rsplit_once('"')?;
    // Quotes within a text look like the end of a name.
    (!name.ends_with('\\')).then_some(name)
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}
