//! Bodies as clients write them, and as they should not, in many spellings.

use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
    Array(Vec<Json>),
    /// Keys may be repeated.
    Object(Vec<(String, Json)>),
}

/// Any value, at most three levels deep.
pub(crate) fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?".prop_map(Json::Number),
        text().prop_map(Json::Text),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            proptest::collection::vec((key(), inner), 0..4).prop_map(Json::Object),
        ]
    })
}

/// A list of messages, most of them as they should be.
pub(crate) fn conversation() -> impl Strategy<Value = Vec<Json>> {
    proptest::collection::vec(prop_oneof![8 => message(), 1 => any_json()], 1..6)
}

/// A body for any of the paths.
pub(crate) fn any_body() -> impl Strategy<Value = Json> {
    let model = prop_oneof![8 => text().prop_map(Json::Text), 1 => any_json()];
    let rest = proptest::collection::vec(member(), 0..8).boxed();
    let with_model =
        (model, rest.clone(), any::<prop::sample::Index>()).prop_map(|(model, mut members, at)| {
            members.insert(at.index(members.len() + 1), ("model".to_owned(), model));
            Json::Object(members)
        });
    prop_oneof![12 => with_model, 1 => rest.prop_map(Json::Object), 1 => any_json()]
}

/// The text of a value; `style` chooses white space and escapes.
pub(crate) fn json_text(value: &Json, style: u64) -> String {
    let mut writer = Writer { out: String::new(), random: style };
    writer.value(value);
    writer.out
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z ]{1,80}", "[ -~é中😀\n\t]{0,12}", "\\PC{0,8}"]
}

fn key() -> impl Strategy<Value = String> {
    let known: &'static [&str] =
        &["type", "role", "content", "text", "output", "tool_calls", "function_call", "image_url", "id", "n"];
    prop_oneof![prop::sample::select(known).prop_map(str::to_owned), text()]
}

fn member() -> impl Strategy<Value = (String, Json)> {
    let member = |keys: &'static [&'static str], value: BoxedStrategy<Json>| {
        (prop::sample::select(keys).prop_map(str::to_owned), value)
    };
    let messages = conversation().prop_map(Json::Array);
    let mostly = |strategy: BoxedStrategy<Json>| prop_oneof![12 => strategy, 1 => any_json()].boxed();
    prop_oneof![
        3 => member(&["messages", "input"], mostly(messages.boxed())),
        3 => member(&["prompt", "input", "text", "input_ids", "token_ids"], mostly(prompt().boxed())),
        1 => member(&["tools"], mostly(Just(Json::Array(Vec::new())).boxed())),
        1 => member(&["tools", "prompt_embeds", "extra", "temperature"], any_json().boxed()),
        2 => member(&["system", "instructions"], mostly(content().boxed())),
        2 => member(&["user", "prompt_cache_key", "cache_salt"], mostly(text().prop_map(Json::Text).boxed())),
        1 => member(&["stream"], mostly(any::<bool>().prop_map(Json::Bool).boxed())),
    ]
}

fn prompt() -> impl Strategy<Value = Json> {
    let token =
        || prop_oneof![8 => any::<u32>().prop_map(|id| Json::Number(id.to_string())), 1 => any_json()];
    let tokens = move || proptest::collection::vec(token(), 0..6).prop_map(Json::Array);
    let whole = any::<u16>().prop_map(|id| Json::Number(id.to_string()));
    prop_oneof![
        text().prop_map(Json::Text),
        proptest::collection::vec(text().prop_map(Json::Text), 0..4).prop_map(Json::Array),
        tokens(),
        proptest::collection::vec(whole, 0..9).prop_map(Json::Array),
        proptest::collection::vec(tokens(), 0..3).prop_map(Json::Array),
    ]
}

fn content() -> impl Strategy<Value = Json> {
    let part = prop_oneof![
        4 => text().prop_map(|text| object(&[("type", "text"), ("text", &text)])),
        1 => text().prop_map(|url| object(&[("type", "image_url"), ("image_url", &url)])),
        1 => text().prop_map(|input| object(&[("type", "tool_use"), ("input", &input)])),
        1 => (text(), any_json()).prop_map(|(id, content)| {
            Json::Object(vec![("content".to_owned(), content), ("tool_use_id".to_owned(), Json::Text(id))])
        }),
        2 => any_json(),
    ];
    let parts = proptest::collection::vec(part, 0..4).prop_map(Json::Array);
    prop_oneof![4 => text().prop_map(Json::Text), 3 => parts, 1 => any_json()]
}

fn message() -> impl Strategy<Value = Json> {
    let role = || {
        prop::sample::select(&["system", "user", "assistant", "tool"][..])
            .prop_map(|role| Json::Text(role.to_owned()))
    };
    let usual = (role(), content()).prop_map(|(role, content)| {
        Json::Object(vec![("role".to_owned(), role), ("content".to_owned(), content)])
    });
    let field = prop_oneof![
        role().prop_map(|role| ("role".to_owned(), role)),
        content().prop_map(|content| ("content".to_owned(), content)),
        (key(), any_json()),
    ];
    let unusual = proptest::collection::vec(field, 0..6).prop_map(Json::Object);
    prop_oneof![2 => usual, 3 => unusual]
}

fn object(members: &[(&str, &str)]) -> Json {
    Json::Object(
        members.iter().map(|(key, value)| ((*key).to_owned(), Json::Text((*value).to_owned()))).collect(),
    )
}

struct Writer {
    out: String,
    random: u64,
}

impl Writer {
    /// One of `choices`, by a linear congruential generator; style 0 always takes the first.
    fn choose(&mut self, choices: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005);
        (self.random >> 33) % choices
    }

    fn space(&mut self) {
        let space = ["", "", "", " ", "\n  ", "\t\r\n"][self.choose(6) as usize];
        self.out.push_str(space);
    }

    fn value(&mut self, value: &Json) {
        self.space();
        match value {
            Json::Null => self.out.push_str("null"),
            Json::Bool(value) => self.out.push_str(&value.to_string()),
            Json::Number(number) => self.out.push_str(number),
            Json::Text(text) => self.text(text),
            Json::Array(elements) => {
                self.out.push('[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.value(element);
                }
                self.space();
                self.out.push(']');
            }
            Json::Object(members) => {
                self.out.push('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.space();
                    self.text(key);
                    self.space();
                    self.out.push(':');
                    self.value(value);
                }
                self.space();
                self.out.push('}');
            }
        }
        self.space();
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            let must = matches!(character, '"' | '\\') || character < ' ';
            if must || self.choose(16) == 1 {
                self.escape(character);
            } else {
                self.out.push(character);
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, character: char) {
        let short = match character {
            '"' => "\\\"",
            '\\' => "\\\\",
            '/' => "\\/",
            '\n' => "\\n",
            '\t' => "\\t",
            _ => "",
        };
        if !short.is_empty() && self.choose(2) == 0 {
            self.out.push_str(short);
            return;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            let escape =
                if self.choose(2) == 0 { format!("\\u{unit:04x}") } else { format!("\\u{unit:04X}") };
            self.out.push_str(&escape);
        }
    }
}
