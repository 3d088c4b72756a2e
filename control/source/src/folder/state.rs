//! What the files of a folder say, and the events that a change of some of them amounts to. Touches no file.
//!
//! The same object may stand in several places: the first one counts, by file name and then by its number in the file,
//! and the others are reported as duplicates. A file that does not parse keeps what it said before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use heddle_model::{Cause, Event, Object, ObjectRef, Rejection, RejectionKey, Subject};

use crate::decode::{Decoded, Refusal};
use crate::manifest::{Entry, ParseError};

/// What a file holds now.
#[derive(Debug)]
pub(super) enum Content {
    /// It is not there.
    Gone,
    /// It cannot be read or parsed.
    Unreadable(ParseError),
    /// These objects.
    Entries(Vec<Entry>),
}

#[derive(Debug, Default)]
struct File {
    objects: Vec<ObjectRef>,
    /// What is about no object: the file itself, documents without a name.
    rejections: Rejections,
    others: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Place {
    line: Option<u32>,
    decoded: Result<Object, Refusal>,
}

/// What was reported of an object.
#[derive(Debug, Default)]
struct Reported {
    version: Option<(Arc<str>, Object)>,
    rejections: Rejections,
}

type Rejections = BTreeMap<RejectionKey, Rejection>;

/// All that the files of a folder say, and what was reported of it.
#[derive(Debug, Default)]
pub(super) struct State {
    files: BTreeMap<Arc<str>, File>,
    places: HashMap<ObjectRef, BTreeMap<(Arc<str>, u32), Place>>,
    reported: HashMap<ObjectRef, Reported>,
    told: HashSet<String>,
}

impl State {
    /// The files that are known.
    pub(super) fn files(&self) -> impl Iterator<Item = &Arc<str>> {
        self.files.keys()
    }

    /// How many objects there are of each kind that heddle does not read.
    pub(super) fn ignored(&self) -> BTreeMap<String, usize> {
        let mut sum = BTreeMap::new();
        for (kind, count) in self.files.values().flat_map(|file| &file.others) {
            *sum.entry(kind.clone()).or_default() += count;
        }
        sum
    }

    /// What changes when these files hold this now. An object that moved from one of them to another is never gone.
    pub(super) fn update(&mut self, contents: BTreeMap<Arc<str>, Content>) -> Vec<Event> {
        let (mut touched, mut seen) = (Vec::new(), HashSet::new());
        let mut events = Vec::new();
        for (name, content) in contents {
            let mut rejections = Rejections::new();
            let gone = matches!(content, Content::Gone);
            match content {
                Content::Unreadable(error) => {
                    let file = self.files.entry(Arc::clone(&name)).or_default();
                    rejections.clone_from(&file.rejections);
                    let rejection = unreadable(&name, &error);
                    rejections.insert(rejection.key(), rejection);
                }
                Content::Gone => touched.extend(self.forget(&name)),
                Content::Entries(entries) => {
                    touched.extend(self.forget(&name));
                    rejections = self.take(&name, entries, &mut touched);
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
        // What is gone goes first: what comes may want its address.
        deleted
            .into_iter()
            .chain(changed)
            .chain(refused)
            .chain(events)
            .collect()
    }

    /// Takes away what a file said of objects; what was reported about the file itself stays to be compared.
    fn forget(&mut self, name: &Arc<str>) -> Vec<ObjectRef> {
        let objects = self
            .files
            .get_mut(name)
            .map(|file| std::mem::take(&mut file.objects))
            .unwrap_or_default();
        for object in &objects {
            if let Some(places) = self.places.get_mut(object) {
                places.retain(|(file, _), _| file != name);
            }
        }
        objects
    }

    fn take(&mut self, name: &Arc<str>, entries: Vec<Entry>, touched: &mut Vec<ObjectRef>) -> Rejections {
        let mut rejections = Rejections::new();
        let mut file = File::default();
        for Entry { number, line, decoded } in entries {
            let (object, decoded) = match decoded {
                Ok(Decoded::Other(kind)) => {
                    *file.others.entry(kind).or_default() += 1;
                    continue;
                }
                Ok(Decoded::Object(object)) => (object.object_ref(), Ok(object)),
                Err(Refusal {
                    object: Some(object),
                    field,
                    value,
                    message,
                    closes,
                }) => (
                    object.clone(),
                    Err(Refusal {
                        object: Some(object),
                        field,
                        value,
                        message,
                        closes,
                    }),
                ),
                Err(refusal) => {
                    let rejection = refusal.into_rejection(name, number, line);
                    rejections.insert(rejection.key(), rejection);
                    continue;
                }
            };
            let places = self.places.entry(object.clone()).or_default();
            places.insert((Arc::clone(name), number), Place { line, decoded });
            file.objects.push(object.clone());
            touched.push(object);
        }
        for kind in file.others.keys() {
            if self.told.insert(kind.clone()) {
                tracing::info!(file = %name, kind, "objects of this kind are ignored");
            }
        }
        // What was reported of the file is compared with `rejections` by the caller.
        if let Some(before) = self.files.get_mut(name) {
            file.rejections = std::mem::take(&mut before.rejections);
        }
        self.files.insert(Arc::clone(name), file);
        rejections
    }

    /// Compares what the places of an object say with what was reported of it.
    fn report(
        &mut self,
        object: &ObjectRef,
        deleted: &mut Vec<Event>,
        changed: &mut Vec<Event>,
        refused: &mut Vec<Event>,
    ) {
        let Some(places) = self.places.get(object).filter(|places| !places.is_empty()) else {
            self.places.remove(object);
            if self.reported.remove(object).is_some() {
                deleted.push(Event::Delete(object.clone()));
            }
            return;
        };
        let mut rejections = Rejections::new();
        let mut places = places.iter();
        let Some(((first, _), winner)) = places.next() else {
            return;
        };
        for ((file, _), place) in places {
            let rejection = duplicate(object, file, place.line, first, winner.line);
            rejections.insert(rejection.key(), rejection);
        }
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
                let rejection = refusal.clone().into_rejection(first, 0, winner.line);
                rejections.insert(rejection.key(), rejection);
            }
        }
        differences(&reported.rejections, &rejections, refused);
        reported.rejections = rejections;
    }
}

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

pub(super) fn unreadable(origin: &Arc<str>, error: &ParseError) -> Rejection {
    Rejection {
        origin: Arc::clone(origin),
        line: error.line,
        subject: Subject::Source,
        cause: Cause::Unreadable,
        field: String::new(),
        value: String::new(),
        message: format!("{}; what it said before stays in force", error.message),
        closes: None,
    }
}

fn duplicate(object: &ObjectRef, file: &Arc<str>, line: Option<u32>, first: &str, at: Option<u32>) -> Rejection {
    let at = at.map(|line| format!(":{line}")).unwrap_or_default();
    Rejection {
        origin: Arc::clone(file),
        line,
        subject: Subject::Object(object.clone()),
        cause: Cause::Duplicate,
        field: String::new(),
        value: String::new(),
        message: format!("stands in {first}{at} too, and the first place by file name counts: remove one of them"),
        closes: None,
    }
}
