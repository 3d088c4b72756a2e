//! Invariants that hold for any text of kept versions, of a saved cluster and of an API server's object. The fuzz targets, the replay of their corpora and
//! property tests assert them.
//!
//! The function panics when an invariant is broken. Only tests and fuzzers call it.

#![allow(clippy::panic, reason = "a broken invariant must stop the fuzzer")]

use serde::de::DeserializeSeed as _;

use crate::decode::parts::{KindParts as _, NodeParts, OtherParts, PodParts, SliceParts};
use crate::decode::{Decoded, decode};
use crate::kept::{self, Parsed};
use crate::saved::SavedCluster;

/// Parses `data` as the agent parses its file of last good versions. Asserts that every version is legal, that a text of the
/// versions parses to the same, that no file counts as kept whole if anything was left out, and that messages are short.
///
/// # Panics
/// When an invariant is broken.
pub fn check_kept(data: &[u8]) {
    let Parsed { kept, first_fault } = match kept::parse(data) {
        Ok(parsed) => parsed,
        Err(message) => return check_message(&message),
    };
    if let Some(fault) = first_fault {
        assert!(kept.files.is_empty(), "{fault}: {:?}", kept.files);
        check_message(&fault);
    }
    for (object, version) in &kept.versions {
        assert_eq!(*object, version.object.object_ref());
        assert!(object.key.is_legal_for(object.kind), "{object}");
    }
    let (text, left_out) = kept::encode(&kept, usize::MAX);
    let again = kept::parse(&text);
    assert_eq!(left_out, 0);
    assert_eq!(
        again,
        Ok(Parsed {
            kept,
            first_fault: None
        })
    );
}

/// Reads `data` as the agent reads its file of the saved cluster. Asserts that a text that is used has legal objects and is
/// what would be written, and that messages are short.
///
/// # Panics
/// When an invariant is broken.
pub fn check_saved(data: &[u8]) {
    let saved = match SavedCluster::read(data) {
        Ok(saved) => saved,
        Err(message) => return check_message(&message),
    };
    for object in &saved.objects {
        let object = object.object_ref();
        assert!(object.key.is_legal_for(object.kind), "{object}");
    }
    let mut again = Vec::new();
    assert!(saved.write(&mut again).is_ok());
    assert_eq!(again, data);
}

/// Reads `data` as an object that an API server sends, as each kind, and decodes it. Asserts that a refusal has a message, and
/// shows a value of bounded length.
///
/// # Panics
/// When an invariant is broken.
pub fn check_object(data: &[u8]) {
    for parts in [PodParts::PARTS, NodeParts::PARTS, SliceParts::PARTS, OtherParts::PARTS] {
        let Ok(value) = parts.deserialize(&mut serde_json::Deserializer::from_slice(data)) else {
            return;
        };
        let refusal = match decode(&value) {
            Ok(Decoded::Partial(_, refusal)) => *refusal,
            Err(refusal) => refusal,
            Ok(Decoded::Object(_) | Decoded::Other(_)) => continue,
        };
        assert!(!refusal.message.is_empty(), "{refusal:?}");
        assert!(refusal.value.chars().count() <= 83, "{refusal:?}");
    }
}

fn check_message(message: &str) {
    assert!(!message.is_empty() && message.chars().count() < 500, "{message}");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fuzz/corpus")
            .join(target);
        let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let read = |file: &PathBuf| {
            (
                file.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read(file).unwrap(),
            )
        };
        files.iter().map(read).collect()
    }

    #[test]
    fn the_corpus_is_replayed() {
        for (target, check) in [
            ("kept", check_kept as fn(&[u8])),
            ("saved", check_saved),
            ("object", check_object),
        ] {
            let corpus = corpus(target);
            assert!(corpus.len() >= 10);
            corpus.iter().for_each(|(_, text)| check(text));
        }
    }

    /// The names of the corpus say what is used: `good-`, nothing (`none-`), or all lines but one (`part-`).
    #[test]
    fn damaged_texts_are_used_as_far_as_they_are_exact() {
        for (name, text) in corpus("kept") {
            let parsed = kept::parse(&text);
            match name.split_once('-').unwrap().0 {
                "good" => assert_eq!(parsed.unwrap().first_fault, None, "{name}"),
                "none" => assert!(parsed.is_err(), "{name}"),
                _ => {
                    let Parsed { kept, first_fault } = parsed.unwrap();
                    let lines = text.iter().filter(|byte| **byte == b'\n').count();
                    assert!(first_fault.is_some() && kept.files.is_empty(), "{name}");
                    assert!(kept.versions.len() < lines, "{name}: {kept:#?}");
                    assert!(!kept.versions.is_empty(), "{name}");
                }
            }
        }
    }

    #[test]
    fn a_saved_cluster_is_used_only_if_all_of_it_is_exact() {
        for (name, text) in corpus("saved") {
            let read = SavedCluster::read(&text[..]);
            assert_eq!(read.is_ok(), name.starts_with("good-"), "{name}: {read:?}");
        }
    }

    proptest::proptest! {
        /// A good text with some bytes changed, cut or repeated.
        #[test]
        fn any_damage_is_found_or_harmless(
            edits in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0..4u8, proptest::prelude::any::<u8>()), 0..4),
        ) {
            for (target, check) in [("kept", check_kept as fn(&[u8])), ("saved", check_saved)] {
                let mut all = corpus(target).into_iter();
                let (_, mut text) = all.find(|(name, _)| name == "good-every-kind.jsonl").unwrap();
                for (at, what, byte) in &edits {
                    let at = at.index(text.len() + 1);
                    match what {
                        0 => text.truncate(at),
                        1 => text.insert(at, *byte),
                        _ if at == text.len() => {}
                        2 => drop(text.remove(at)),
                        _ => text[at] = *byte,
                    }
                }
                check(&text);
            }
        }
    }
}
