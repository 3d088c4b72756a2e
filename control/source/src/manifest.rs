//! Parses the text of a manifest file into its objects.

use std::path::Path;

use serde_json::Value;

use crate::decode::{Decoded, Refusal, decode, unlist};
use crate::documents::Documents;
use crate::yaml;

pub use crate::documents::ParseError;

/// One object of a file, decoded or refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its number in the file, from 1; each entry of a list counts.
    pub number: u32,
    /// The line where its document begins, from 1.
    pub line: Option<u32>,
    /// The object, or its refusal.
    pub decoded: Result<Decoded, Refusal>,
}

/// Returns `true` if a file with this name holds manifests: `.yaml`, `.yml` and `.json`, but no hidden files, and no copies
/// that editors leave (`#x.yaml#`, `x.yaml~`, `.x.yaml.swp`).
#[must_use]
pub fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with(['.', '#']) && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Parses all objects of a file, YAML or JSON. A file may have several documents and lists.
///
/// # Errors
/// Refuses the whole file if any document does not parse, because the objects behind a fault are unknown.
pub fn parse(name: &str, text: &str) -> Result<Vec<Entry>, ParseError> {
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // As for kubectl, the content decides. JSON objects that follow each other are no YAML; a YAML flow mapping is no JSON.
    let begins_as_json = text.trim_start().starts_with(['{', '[']);
    let documents = match begins_as_json.then(|| json(text)) {
        Some(Ok(documents)) => documents,
        Some(Err(error)) if name.ends_with(".json") => return Err(error),
        _ => yaml::documents(text)?,
    };
    let mut entries = Vec::new();
    for (line, document) in documents {
        for value in unlist(document) {
            let number = u32::try_from(entries.len() + 1).unwrap_or(u32::MAX);
            entries.push(Entry {
                number,
                line,
                decoded: decode(&value),
            });
        }
    }
    Ok(entries)
}

fn json(text: &str) -> Result<Documents, ParseError> {
    let mut documents = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let (mut seen, mut line) = (0, 1);
    loop {
        // The document begins after the white space that follows the one before.
        let rest = text.get(seen..).unwrap_or_default();
        let begin = seen + (rest.len() - rest.trim_start().len());
        line += text.get(seen..begin).unwrap_or_default().matches('\n').count();
        let end = match stream.next() {
            None => return Ok(documents),
            Some(Ok(value)) => {
                documents.push((u32::try_from(line).ok(), value));
                stream.byte_offset()
            }
            Some(Err(error)) => {
                return Err(ParseError {
                    line: u32::try_from(error.line()).ok(),
                    message: error.to_string(),
                });
            }
        };
        line += text.get(begin..end).unwrap_or_default().matches('\n').count();
        seen = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str, text: &str) -> Vec<(u32, Option<u32>, String)> {
        let show = |entry: Entry| {
            let what = match entry.decoded {
                Ok(Decoded::Object(object) | Decoded::Partial(object, _)) => object.object_ref().to_string(),
                Ok(Decoded::Other(kind)) => format!("other {kind}"),
                Err(refusal) => format!("refused {}", refusal.field),
            };
            (entry.number, entry.line, what)
        };
        parse(name, text).unwrap().into_iter().map(show).collect()
    }

    #[test]
    fn documents_and_lists_are_taken_apart_and_keep_their_lines() {
        let text = "\
# a comment
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
# nothing here
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: node-1}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}
---
apiVersion: v1
kind: NamespaceList
items: [{metadata: {name: a}}, {metadata: {}}]
";
        let expected = [
            (1, Some(3), "Namespace shop"),
            (2, Some(9), "Node node-1"),
            (3, Some(9), "other apps/v1 Deployment"),
            (4, Some(15), "Namespace a"),
            (5, Some(15), "refused metadata.name"),
        ];
        assert_eq!(
            names("a.yaml", text),
            expected.map(|(number, line, what)| (number, line, what.to_owned()))
        );
        assert_eq!(names("a.yaml", "# only a comment\n"), []);
        assert_eq!(names("a.yaml", ""), []);
    }

    #[test]
    fn json_files_hold_one_or_more_values() {
        let text =
            "\n{\"apiVersion\":\"v1\",\"kind\":\"Node\",\n\"metadata\":{\"name\":\"a\"}}\n\n{\"kind\":\"Node\"}\n";
        let expected = [(1, Some(2), "Node a"), (2, Some(5), "refused apiVersion")];
        assert_eq!(
            names("a.json", text),
            expected.map(|(number, line, what)| (number, line, what.to_owned()))
        );
        // As for kubectl, whatever the file's name is, and behind a byte order mark.
        for name in ["a.json", "a.yaml"] {
            let text = format!("\u{feff}{text}");
            assert_eq!(names(name, &text).len(), 2, "{name}");
            let yaml = "\u{feff}apiVersion: v1\nkind: Node\nmetadata: {name: a}\n";
            assert_eq!(names(name, yaml).len(), 1, "{name}");
        }
        let flow = "{apiVersion: v1, kind: Node, metadata: {name: a}}\n";
        assert_eq!(names("a.yaml", flow).len(), 1);
        assert_eq!(
            names(
                "a.yaml",
                "{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"a\"}}"
            )
            .len(),
            1
        );
    }

    #[test]
    fn a_fault_is_told_with_its_line() {
        let error = parse("a.yaml", "apiVersion: v1\nkind: [Node\nmetadata: {}\n").unwrap_err();
        assert!(error.line.is_some_and(|line| (2..=4).contains(&line)), "{error:?}");
        assert_eq!(parse("a.json", "{}\n{\"a\": }\n").unwrap_err().line, Some(2));
        // A key that occurs twice is a fault, as with the API server's strict validation.
        assert_eq!(parse("a.yaml", "kind: a\nkind: b\n").unwrap_err().line, Some(2));
    }

    #[test]
    fn a_small_file_cannot_blow_up() {
        // Deep nesting, at the limit and far beyond it, on a thread with the usual stack.
        for depth in [100, 127, 128, 100_000] {
            let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            for name in ["a.yaml", "a.json"] {
                let text = text.clone();
                std::thread::spawn(move || parse(name, &text).map(|entries| entries.len()))
                    .join()
                    .unwrap()
                    .ok();
            }
        }
        // Aliases that multiply ("billion laughs").
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let alias = format!("*a{}, ", n - 1).repeat(10);
            text += &format!("a{n}: &a{n} [{}]\n", alias.trim_end_matches(", "));
        }
        assert!(parse("a.yaml", &text).is_err());
    }

    #[test]
    fn editors_files_are_no_manifests() {
        for name in ["a.yaml", "b.yml", "c.json", "00-x.y.yaml"] {
            assert!(is_manifest(name), "{name}");
        }
        for name in [
            ".a.yaml",
            "a.yaml~",
            "#a.yaml#",
            ".a.yaml.swp",
            "a.yaml.tmp",
            "4913",
            "README.md",
            "yaml",
        ] {
            assert!(!is_manifest(name), "{name}");
        }
    }
}
