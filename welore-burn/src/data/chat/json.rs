//! The filter `tojson`, as transformers has it: Python's `json.dumps` without escapes for HTML.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// The deepest nesting that is written. Real values have a tenth of it.
const DEEPEST: usize = 64;

/// The widest indentation.
const WIDEST: usize = 16;

/// Bytes that one unit of the template's fuel pays for, as minijinja counts.
const BYTES_A_UNIT: usize = 64;

struct Style {
    ascii: bool,
    indent: Option<usize>,
    between: String,
    after_key: String,
    sorted: bool,
}

/// A value as JSON. `ensure_ascii`, `indent`, `separators` and `sort_keys` are those of Python.
pub(super) fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let style = Style::of(&options)?;
    options.assert_all_used()?;
    let mut out = String::new();
    style.write(&mut out, state, value, 0)?;
    Ok(out)
}

impl Style {
    fn of(options: &Kwargs) -> Result<Self, Error> {
        let indent: Option<usize> = options.get("indent")?;
        if indent.is_some_and(|indent| indent > WIDEST) {
            return Err(wrong(format!("an indent is at most {WIDEST}")));
        }
        let separators: Option<Value> = options.get("separators")?;
        let (between, after_key) = match separators.filter(|given| !given.is_none()) {
            Some(given) => {
                let text = |index| Ok::<_, Error>(given.get_item_by_index(index)?.to_string());
                (text(0)?, text(1)?)
            }
            None if indent.is_some() => (",".into(), ": ".into()),
            None => (", ".into(), ": ".into()),
        };
        Ok(Self {
            ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
            indent,
            between,
            after_key,
            sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        })
    }

    fn write(
        &self,
        out: &mut String,
        state: &State,
        value: &Value,
        depth: usize,
    ) -> Result<(), Error> {
        // A value may have the same part many times.
        state.consume_fuel(1 + (value.as_str().map_or(0, str::len) / BYTES_A_UNIT) as u64)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.write_text(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?;
                let write =
                    |out: &mut String, item: &Value| self.write(out, state, item, depth + 1);
                self.write_all(out, ['[', ']'], items, depth, write)?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort_by_key(ToString::to_string);
                }
                let write = |out: &mut String, key: &Value| {
                    self.write_text(out, &key_text(key));
                    out.push_str(&self.after_key);
                    self.write(out, state, &value.get_item(key)?, depth + 1)
                };
                self.write_all(out, ['{', '}'], keys, depth, write)?;
            }
            kind => return Err(wrong(format!("a value of type {kind} is not JSON"))),
        }
        Ok(())
    }

    fn write_all(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: impl IntoIterator<Item = Value>,
        depth: usize,
        mut write: impl FnMut(&mut String, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if depth == DEEPEST {
            return Err(wrong("a value is nested too deeply for JSON"));
        }
        out.push(open);
        let mut is_empty = true;
        for item in items {
            if !is_empty {
                out.push_str(&self.between);
            }
            is_empty = false;
            self.break_line(out, depth + 1);
            write(out, &item)?;
        }
        if !is_empty {
            self.break_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn break_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn write_text(&self, out: &mut String, text: &str) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A number as Python writes it.
fn number(value: &Value) -> String {
    match value.to_string().as_str() {
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        number => number.into(),
    }
}

/// The key of an object: JSON has only texts.
fn key_text(key: &Value) -> String {
    match key.kind() {
        ValueKind::Bool => key.is_true().to_string(),
        ValueKind::None => "null".into(),
        _ => key.to_string(),
    }
}

fn wrong(reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}
