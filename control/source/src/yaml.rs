//! Parses YAML, and reads plain scalars as Kubernetes' tools do.
//!
//! kubectl and the API server read YAML by go-yaml, and kubectl writes without quotes what go-yaml reads as a string. Two kinds
//! of plain scalars are strings there and something else for this crate's parser: a number out of a float's range
//! (`7e123456`, as hashes look), and a boolean of the older YAML in mixed case (`nO`). A text that may have one is parsed
//! slowly, with the position of each scalar, so that its spelling can be looked at.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{Options, Spanned};

use crate::documents::{Documents, ParseError};

/// The words that go-yaml reads as booleans, apart from `true` and `false`, each in lower case, capitalised and in capitals.
const BOOLEANS: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "true", "false"];

/// Parses all documents of a text.
pub(crate) fn documents(text: &str) -> Result<Documents, ParseError> {
    if text.split(is_separator).any(is_string_for_go) {
        return exact(text);
    }
    let documents = serde_saphyr::from_multiple_with_options::<Spanned<Value>>(text, options());
    let pair = |document: Spanned<Value>| (line_number(document.referenced.line()), document.value);
    Ok(documents
        .map_err(|error| failure(&error))?
        .into_iter()
        .map(pair)
        .collect())
}

fn exact(text: &str) -> Result<Documents, ParseError> {
    let mut options = options();
    options.non_finite_float_policy = NonFiniteFloatPolicy::PassThrough;
    let documents = serde_saphyr::from_multiple_with_options::<Spanned<Tree>>(text, options);
    let pair = |document: Spanned<Tree>| {
        (
            line_number(document.referenced.line()),
            document.value.into_value(&document.defined, text),
        )
    };
    Ok(documents
        .map_err(|error| failure(&error))?
        .into_iter()
        .map(pair)
        .collect())
}

/// Returns large limits, because a file may contain a dump of a large cluster. The expansion of a small file stays bounded.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 1_000_000_000,
            max_nodes: 1_000_000_000,
            max_documents: 10_000_000,
            max_total_scalar_bytes: usize::MAX,
            max_depth: 128,
        },
        with_snippet: false,
    }
}

fn failure(error: &serde_saphyr::Error) -> ParseError {
    ParseError {
        line: error.location().and_then(|location| line_number(location.line())),
        message: error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

fn line_number(line: u64) -> Option<u32> {
    u32::try_from(line).ok().filter(|line| *line > 0)
}

const fn is_separator(c: char) -> bool {
    c.is_ascii_whitespace() || matches!(c, ',' | '[' | ']' | '{' | '}' | ':')
}

/// Returns `true` if go-yaml reads a plain scalar as a string, and this crate's parser as a number or a boolean.
fn is_string_for_go(plain: &str) -> bool {
    match plain.as_bytes() {
        [b'0'..=b'9' | b'+' | b'-' | b'.', ..] => {
            plain.contains(['e', 'E']) && plain.parse::<f64>().is_ok_and(f64::is_infinite) && !is_infinity(plain)
        }
        [
            b'y' | b'n' | b'o' | b't' | b'f' | b'Y' | b'N' | b'O' | b'T' | b'F',
            rest @ ..,
        ] if rest.len() < 5 => {
            let is_lower = rest.iter().all(u8::is_ascii_lowercase);
            let is_upper = plain.bytes().all(|b| b.is_ascii_uppercase());
            !is_lower && !is_upper && BOOLEANS.iter().any(|word| word.eq_ignore_ascii_case(plain))
        }
        _ => false,
    }
}

/// Returns `true` for a spelling of infinity itself, as Rust reads it.
fn is_infinity(plain: &str) -> bool {
    plain.trim_start_matches(['+', '-', '.']).starts_with(['i', 'I'])
}

/// A value whose parts have positions in the text.
enum Tree {
    Scalar(Value),
    /// A number that is no JSON number.
    NonFinite,
    List(Vec<Spanned<Tree>>),
    Map(Vec<(String, Spanned<Tree>)>),
}

impl Tree {
    fn into_value(self, at: &serde_saphyr::Location, text: &str) -> Value {
        let part = |spanned: Spanned<Tree>| spanned.value.into_value(&spanned.defined, text);
        match self {
            Tree::NonFinite | Tree::Scalar(Value::Bool(_)) => {
                let span = at.span();
                let bytes = span.byte_offset().zip(span.byte_len()).and_then(|(start, length)| {
                    let start = usize::try_from(start).ok()?;
                    text.get(start..start.checked_add(usize::try_from(length).ok()?)?)
                });
                let plain = bytes.unwrap_or_default().trim();
                match self {
                    Tree::Scalar(known) if !is_string_for_go(plain) => known,
                    _ => Value::String(plain.to_owned()),
                }
            }
            Tree::Scalar(value) => value,
            Tree::List(items) => items.into_iter().map(part).collect(),
            Tree::Map(fields) => {
                let fields = fields.into_iter().map(|(key, value)| (key, part(value)));
                Value::Object(fields.collect())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(serde_json::Number::from_f64(value).map_or(Tree::NonFinite, |number| Tree::Scalar(number.into())))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = access.next_entry()? {
            fields.push(entry);
        }
        Ok(Tree::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Value {
        documents(text).unwrap().remove(0).1
    }

    #[test]
    fn scalars_that_go_yaml_reads_as_strings_are_strings() {
        for plain in [
            "7e123456", "12E9999", "+3e400", "-1e999", "1.5e309", "yES", "nO", "oFF", "tRUE",
        ] {
            assert_eq!(one(&format!("a: {plain}\n")), json!({ "a": plain }), "{plain}");
            // Also where others follow, in a list, in flow style, behind an anchor and beyond ASCII.
            let text = format!("# é {plain}\né: é\nb: {{c: [{plain}, true, 7], d: &x {plain}}}\ne: *x\n");
            let expected = json!({"é": "é", "b": {"c": [plain, true, 7], "d": plain}, "e": plain});
            assert_eq!(one(&text), expected, "{plain}");
        }
    }

    #[test]
    fn other_scalars_are_read_alike_on_both_ways() {
        let text = "a: [yes, No, ON, true, 1e3, 7e-123456, 0x1f, ~, null, '7e123456', \"nO\", 1.5, -3, x, 1_0]\nb: |\n  7e123456\n";
        assert!(text.split(is_separator).any(is_string_for_go));
        let slow = one(text);
        let fast = one(&text.replace("7e123456", "7e1x").replace("nO", "no"));
        let fast = fast.to_string().replace("7e1x", "7e123456");
        assert_eq!(slow.to_string().replace("\"nO\"", "\"no\""), fast);
        let infinite = one("a: [.inf, 1e999]\n");
        assert_eq!(infinite, json!({"a": [".inf", "1e999"]}));
    }
}
