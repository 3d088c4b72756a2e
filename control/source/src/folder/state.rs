//! The contents of a folder's files, and the events for changes of them. This module reads no file.
//!
//! If several documents have the same object, the first one counts, by file name and then by its number in the file; the
//! others are reported as duplicates. A file that does not parse keeps its earlier objects.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use heddle_model::{Cause, Event, Interner, Object, ObjectRef, Rejection, RejectionKey, Subject};

use crate::decode::{Decoded, Refusal, closing_everything};
use crate::manifest::{Entry, ParseError, is_manifest};

/// The present content of a file.
#[derive(Debug)]
pub(super) enum Content {
    /// The file does not exist.
    Gone,
    /// The file cannot be read or parsed.
    Unreadable {
        error: ParseError,
        /// The text may have policies, or cannot be read at all.
        may_have_policies: bool,
    },
    /// The file has these objects.
    Entries(Vec<Entry>),
}

/// The objects and rejections of one file.
#[derive(Debug, Default)]
struct File {
    objects: Vec<ObjectRef>,
    /// The file has been parsed at least once.
    was_read: bool,
    /// Rejections without an object: of the file itself, and of documents without a name.
    rejections: Rejections,
    /// The number of documents of each kind that heddle does not read.
    others: BTreeMap<String, usize>,
}

/// A document that has an object.
#[derive(Debug)]
struct Place {
    file: Arc<str>,
    /// Its number in the file, from 1.
    number: u32,
    line: Option<u32>,
    decoded: Result<Object, Box<Refusal>>,
    /// The fault of a part that was ignored.
    ignored: Option<Box<Refusal>>,
}

/// The last report about an object.
#[derive(Debug, Default)]
struct Reported {
    version: Option<(Arc<str>, Object)>,
    rejections: Rejections,
}

type Rejections = BTreeMap<RejectionKey, Rejection>;

/// The contents of all files of a folder, and the reports about them.
#[derive(Debug, Default)]
pub(super) struct State {
    files: BTreeMap<Arc<str>, File>,
    /// The documents of each object, by file and number. Nearly all objects have one.
    places: HashMap<ObjectRef, Vec<Place>>,
    /// Equal values of objects are shared here, before a version has two holders: the folder and the cluster.
    interner: Interner,
    reported: HashMap<ObjectRef, Reported>,
    /// The ignored kinds that were logged. Each is logged once.
    logged_kinds: HashSet<String>,
}

impl State {
    /// Returns the state of a folder after an earlier process has read these files. They stay as they were if they do not
    /// parse now.
    pub(super) fn with_files(files: &BTreeMap<Arc<str>, Vec<Object>>) -> State {
        let mut state = State::default();
        for (name, objects) in files {
            // Only the names of a folder's own files are names that a scan can return.
            if !is_manifest(name) || name.contains('/') {
                continue;
            }
            let mut file = File {
                was_read: true,
                ..File::default()
            };
            for (object, number) in objects.iter().zip(1..) {
                file.objects.push(object.object_ref());
                state.places.entry(object.object_ref()).or_default().push(Place {
                    file: Arc::clone(name),
                    number,
                    line: None,
                    decoded: Ok(object.clone()),
                    ignored: None,
                });
            }
            state.files.insert(Arc::clone(name), file);
        }
        state
    }

    /// Returns the known files.
    pub(super) fn files(&self) -> impl Iterator<Item = &Arc<str>> {
        self.files.keys()
    }

    /// Returns the number of objects of each kind that heddle does not read.
    pub(super) fn ignored(&self) -> BTreeMap<String, usize> {
        let mut sum = BTreeMap::new();
        for (kind, count) in self.files.values().flat_map(|file| &file.others) {
            *sum.entry(kind.clone()).or_default() += count;
        }
        sum
    }

    /// Returns the events that follow from new contents of some files. An object that moved from one of them to another is
    /// never reported as gone.
    pub(super) fn update(&mut self, contents: BTreeMap<Arc<str>, Content>) -> Vec<Event> {
        let (mut touched, mut seen) = (Vec::new(), HashSet::new());
        let mut events = Vec::new();
        for (name, content) in contents {
            let mut rejections = Rejections::new();
            let gone = matches!(content, Content::Gone);
            match content {
                Content::Unreadable {
                    error,
                    may_have_policies,
                } => {
                    let file = self.files.entry(Arc::clone(&name)).or_default();
                    rejections.clone_from(&file.rejections);
                    // They are reported already, unless an earlier process has read the file.
                    touched.extend(file.objects.iter().cloned());
                    let mut rejection = unreadable(&name, &error);
                    if !file.was_read {
                        // Nothing is known of it: refused policies must not leave open what they were to close.
                        rejection.message = match may_have_policies {
                            true => format!(
                                "{}; it never was good and may have policies, so all traffic of pods is denied until it is \
                                 repaired or removed",
                                error.message
                            ),
                            false => format!("{}; it never was good: its objects are not known", error.message),
                        };
                        rejection.closes = may_have_policies.then(|| closing_everything(&format!("{name}#0")).into());
                    }
                    rejections.insert(rejection.key(), rejection);
                }
                Content::Gone => touched.extend(self.remove_objects(&name)),
                Content::Entries(entries) => {
                    touched.extend(self.remove_objects(&name));
                    rejections = self.insert_file(&name, entries, &mut touched);
                }
            }
            let file = self.files.get_mut(&name);
            let before = file.map(|file| std::mem::replace(&mut file.rejections, rejections.clone()));
            differences(&before.unwrap_or_default(), &rejections, &mut events);
            if gone {
                self.files.remove(&name);
            }
        }
        touched.retain(|object| seen.insert(object.clone()));
        let (mut deleted, mut changed, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for object in touched {
            self.report(&object, &mut deleted, &mut changed, &mut refused);
        }
        // Deletions come first, because a new object may claim an address of a deleted one.
        deleted
            .into_iter()
            .chain(changed)
            .chain(refused)
            .chain(events)
            .collect()
    }

    /// Removes the objects of a file. Reports about the file itself stay, to be compared.
    fn remove_objects(&mut self, name: &Arc<str>) -> Vec<ObjectRef> {
        let objects = self
            .files
            .get_mut(name)
            .map(|file| std::mem::take(&mut file.objects))
            .unwrap_or_default();
        for object in &objects {
            if let Some(places) = self.places.get_mut(object) {
                places.retain(|place| place.file != *name);
            }
        }
        objects
    }

    /// Replaces the objects of a file by the entries of its new content. Appends the objects to `touched`, and returns the
    /// rejections of documents without a name.
    fn insert_file(&mut self, name: &Arc<str>, entries: Vec<Entry>, touched: &mut Vec<ObjectRef>) -> Rejections {
        let mut rejections = Rejections::new();
        let mut file = File {
            was_read: true,
            ..File::default()
        };
        // Each entry becomes an object or its refusal at its place, or else a rejection without an object.
        for Entry {
            number,
            line,
            mut decoded,
        } in entries
        {
            if let Ok(Decoded::Object(object) | Decoded::Partial(object, _)) = &mut decoded {
                self.interner.object(object);
            }
            let (object, decoded, ignored) = match decoded {
                Ok(Decoded::Other(kind)) => {
                    *file.others.entry(kind).or_default() += 1;
                    continue;
                }
                Ok(Decoded::Object(object)) => (object.object_ref(), Ok(object), None),
                Ok(Decoded::Partial(object, ignored)) => (object.object_ref(), Ok(object), Some(ignored)),
                Err(refusal) => match refusal.object.clone() {
                    Some(object) => (object, Err(Box::new(refusal)), None),
                    None => {
                        let rejection = refusal.into_rejection(name, number, line);
                        rejections.insert(rejection.key(), rejection);
                        continue;
                    }
                },
            };
            let places = self.places.entry(object.clone()).or_default();
            let place = Place {
                file: Arc::clone(name),
                number,
                line,
                decoded,
                ignored,
            };
            let at = places.partition_point(|other| (&other.file, other.number) < (&place.file, number));
            places.reserve_exact(1);
            places.insert(at, place);
            file.objects.push(object.clone());
            touched.push(object);
        }
        for kind in file.others.keys() {
            if self.logged_kinds.insert(kind.clone()) {
                tracing::info!(file = %name, kind, "objects of this kind are ignored");
            }
        }
        // The caller compares the reports about the file with `rejections`.
        if let Some(before) = self.files.get_mut(name) {
            file.rejections = std::mem::take(&mut before.rejections);
        }
        self.files.insert(Arc::clone(name), file);
        rejections
    }

    /// Compares the documents of an object with the last report about it.
    fn report(
        &mut self,
        object: &ObjectRef,
        deleted: &mut Vec<Event>,
        changed: &mut Vec<Event>,
        refused: &mut Vec<Event>,
    ) {
        // Without a document, the object is deleted.
        let Some(places) = self.places.get(object).filter(|places| !places.is_empty()) else {
            self.places.remove(object);
            if self.reported.remove(object).is_some() {
                deleted.push(Event::Delete(object.clone()));
            }
            return;
        };
        // The first document counts; the others are duplicates.
        let mut rejections = Rejections::new();
        let mut places = places.iter();
        let Some(winner) = places.next() else {
            return;
        };
        let first = &winner.file;
        for place in places {
            let rejection = duplicate(object, &place.file, place.line, first, winner.line);
            rejections.insert(rejection.key(), rejection);
        }
        // A new version is reported; a refused one leaves the last good version as it is.
        let reported = self.reported.entry(object.clone()).or_default();
        match &winner.decoded {
            Ok(version) => {
                if reported
                    .version
                    .as_ref()
                    .is_none_or(|(file, known)| (file, known) != (first, version))
                {
                    reported.version = Some((Arc::clone(first), version.clone()));
                    changed.push(Event::Upsert {
                        origin: Arc::clone(first),
                        object: version.clone(),
                    });
                }
            }
            Err(refusal) => {
                let rejection = Refusal::clone(refusal).into_rejection(first, 0, winner.line);
                rejections.insert(rejection.key(), rejection);
            }
        }
        if let Some(ignored) = &winner.ignored {
            let note = Refusal::clone(ignored).into_note(first, winner.line);
            rejections.insert(note.key(), note);
        }
        differences(&reported.rejections, &rejections, refused);
        reported.rejections = rejections;
    }
}

/// Appends an event for each rejection that is new, changed or gone.
fn differences(before: &Rejections, after: &Rejections, events: &mut Vec<Event>) {
    for key in before.keys().filter(|key| !after.contains_key(key)) {
        events.push(Event::Restored(key.clone()));
    }
    for (key, rejection) in after {
        if before.get(key) != Some(rejection) {
            events.push(Event::Rejected(rejection.clone()));
        }
    }
}

/// Returns the rejection of a file that cannot be read or parsed.
pub(super) fn unreadable(origin: &Arc<str>, error: &ParseError) -> Rejection {
    Rejection {
        origin: Arc::clone(origin),
        line: error.line,
        subject: Subject::Source,
        cause: Cause::Unreadable,
        field: String::new(),
        value: String::new(),
        message: format!("{}; its earlier objects stay in force", error.message),
        closes: None,
    }
}

/// Returns the rejection of a document whose object an earlier document has already.
fn duplicate(object: &ObjectRef, file: &Arc<str>, line: Option<u32>, first: &str, at: Option<u32>) -> Rejection {
    let at = at.map(|line| format!(":{line}")).unwrap_or_default();
    Rejection {
        origin: Arc::clone(file),
        line,
        subject: Subject::Object(object.clone()),
        cause: Cause::Duplicate,
        field: String::new(),
        value: String::new(),
        message: format!("is in {first}{at} too, and the first file by name counts: remove one of them"),
        closes: None,
    }
}
