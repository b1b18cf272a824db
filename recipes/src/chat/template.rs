//! A chat template, rendered as transformers' `apply_chat_template` renders it.
//!
//! transformers uses Jinja2 in Python. Where minijinja differs, this module follows Python:
//! `{% generation %}` marks are left out, JSON has Python's spaces, and `none`, `true` and lists
//! print as in Python.

use chrono::format::{Item, StrftimeItems};
use chrono::{NaiveDate, NaiveDateTime};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::io;

/// Name of the chat template in error messages.
const NAME: &str = "<string>";

/// A compiled chat template.
pub(super) struct Template(Environment<'static>);

impl Template {
    /// Compiles `source`, or says what is wrong with it.
    pub fn compile(source: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(print);
        environment.add_filter("tojson", to_json);
        environment.add_function("strftime_now", date);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        let source = without_generation_marks(source).replace("[::-1]", " | reverse");
        let added = environment.add_template_owned(NAME, source);
        added.map_err(|e| format!("{e:#}"))?;
        Ok(Self(environment))
    }

    /// Renders the template with `context`, or says why not.
    pub fn render(&self, context: Value) -> Result<String, String> {
        let template = self.0.get_template(NAME);
        let text = template.and_then(|template| template.render(context));
        text.map_err(|e| format!("{e:#}"))
    }
}

/// `{% generation %}` marks what an assistant says, for masks in training. It changes no text.
fn without_generation_marks(source: &str) -> String {
    let (mut text, mut rest) = (String::new(), source);
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start + 2..].find("%}").map(|n| n + 2) else {
            break;
        };
        let (before, tag) = rest[..start + length].split_at(start);
        text += before;
        match tag[2..].trim_matches(['-', '+']).trim() {
            "generation" => text += &tag.replace("generation", " if true "),
            "endgeneration" => text += &tag.replace("endgeneration", " endif "),
            _ => text += tag,
        }
        rest = &rest[start + length..];
    }
    text + rest
}

/// The day that templates are given as today's, at midnight: 26 July 2024, the date in the
/// template of Llama 3.1. The real date would change prompts from day to day.
fn today() -> NaiveDateTime {
    NaiveDate::from_ymd_opt(2024, 7, 26)
        .unwrap_or_default()
        .into()
}

fn date(format: &str) -> Result<String, Error> {
    let items: Vec<Item> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        let reason = format!("strftime_now: the format {format:?} is not one of strftime");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    Ok(today().format_with_items(items.iter()).to_string())
}

/// Prints an expression as Python's `str` does.
fn print(out: &mut Output, state: &State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Seq | ValueKind::Map => {
            let text = repr(value);
            Ok(out.write_str(&text)?)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// Python's `repr`.
fn repr(value: &Value) -> String {
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::String => {
            let text = value.to_string();
            match text.contains('\'') && !text.contains('"') {
                true => format!("\"{text}\""),
                false => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
            }
        }
        ValueKind::Seq => {
            let items: Vec<String> = items().map(|item| repr(&item)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let item = |key: Value| {
                let of = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", repr(&key), repr(&of))
            };
            let items: Vec<String> = items().map(item).collect();
            format!("{{{}}}", items.join(", "))
        }
        _ => value.to_string(),
    }
}

/// Python's `json.dumps` with `ensure_ascii=False`, and its options that templates use.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let separators = separators.and_then(pair);
    let ascii = options
        .get::<Option<bool>>("ensure_ascii")?
        .unwrap_or_default();
    let sorted = options
        .get::<Option<bool>>("sort_keys")?
        .unwrap_or_default();
    options.assert_all_used()?;
    let failed = |e: &dyn std::error::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut json = serde_json::to_value(value).map_err(|e| failed(&e))?;
    if sorted {
        json.sort_all_objects();
    }
    let mut bytes = Vec::new();
    let written = match indent {
        Some(indent) => {
            let blanks = " ".repeat(indent);
            let format = PrettyFormatter::with_indent(blanks.as_bytes());
            json.serialize(&mut Serializer::with_formatter(&mut bytes, format))
        }
        None => {
            let (item, key) = separators.unwrap_or_else(|| (", ".into(), ": ".into()));
            let format = OneLine { item, key };
            json.serialize(&mut Serializer::with_formatter(&mut bytes, format))
        }
    };
    written.map_err(|e| failed(&e))?;
    let text = String::from_utf8(bytes).map_err(|e| failed(&e))?;
    Ok(if ascii { escaped(&text) } else { text })
}

fn pair(separators: Vec<String>) -> Option<(String, String)> {
    let [item, key] = separators.try_into().ok()?;
    Some((item, key))
}

/// `json` with every character outside of ASCII as `\uXXXX`.
fn escaped(json: &str) -> String {
    let units = json.encode_utf16();
    let text = units.map(|unit| match u8::try_from(unit) {
        Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
        _ => format!("\\u{unit:04x}"),
    });
    text.collect()
}

/// JSON on one line with these texts after an item and after a key.
struct OneLine {
    item: String,
    key: String,
}

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        match first {
            true => Ok(()),
            false => to.write_all(self.item.as_bytes()),
        }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_array_value(to, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(self.key.as_bytes())
    }
}
