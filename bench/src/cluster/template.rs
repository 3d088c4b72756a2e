//! JSON text with named places. `@name@` inside a string is replaced by text, and a string that is `@raw:name@` alone by JSON.

/// A parsed template.
pub(super) struct Template {
    /// The text before each place, and the place's name.
    parts: Vec<(String, String)>,
    end: String,
}

impl Template {
    /// Parses a template. Its JSON is written without spaces, as the API server writes it.
    pub(super) fn new(json: &str) -> Self {
        let compact = match serde_json::from_str::<serde_json::Value>(json) {
            Ok(value) => value.to_string(),
            Err(_) => json.to_owned(),
        };
        let mut parts = Vec::new();
        let mut rest = compact.as_str();
        while let Some((before, after)) = rest.split_once('@')
            && let Some((name, after)) = after.split_once('@')
        {
            match name.strip_prefix("raw:") {
                // The string was there only to make the template JSON.
                Some(name) => {
                    parts.push((before.trim_end_matches('"').to_owned(), name.to_owned()));
                    rest = after.strip_prefix('"').unwrap_or(after);
                }
                None => {
                    parts.push((before.to_owned(), name.to_owned()));
                    rest = after;
                }
            }
        }
        let end = rest.to_owned();
        Self { parts, end }
    }

    /// Writes the template; `fill` writes the value of each place.
    pub(super) fn write(&self, out: &mut String, mut fill: impl FnMut(&str, &mut String)) {
        for (before, name) in &self.parts {
            out.push_str(before);
            fill(name, out);
        }
        out.push_str(&self.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_strings_keep_their_quotes_and_raw_ones_have_none() {
        let template = Template::new(r#"{"a": "x-@n@", "b": "@raw:list@", "c": "@n@", "d": ["@n@@n@y"]}"#);
        let mut out = String::new();
        template.write(&mut out, |name, out| {
            out.push_str(if name == "n" { "1" } else { "[2]" });
        });
        assert_eq!(out, r#"{"a":"x-1","b":[2],"c":"1","d":["11y"]}"#);
    }
}
