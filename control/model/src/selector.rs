//! Label selectors.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::labels::{LabelError, Labels, check_label_key, check_label_value};

/// `LabelSelector`: all requirements must hold. Without any, it selects everything.
///
/// `matchLabels` are kept as [`Operator::In`] with one value, which means the same. Requirements are sorted,
/// without duplicates, so that selectors with the same meaning compare equal however they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "LabelSelectorFields")]
pub struct LabelSelector {
    requirements: Arc<[Requirement]>,
}

/// The fields of a [`LabelSelector`] as they were written, not yet sorted.
#[derive(Deserialize)]
struct LabelSelectorFields {
    requirements: Vec<Requirement>,
}

impl From<LabelSelectorFields> for LabelSelector {
    fn from(fields: LabelSelectorFields) -> LabelSelector {
        LabelSelector::new(fields.requirements)
    }
}

impl LabelSelector {
    /// Returns the selector that selects everything (`{}`).
    #[must_use]
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    /// Makes a selector from its requirements.
    #[must_use]
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> LabelSelector {
        let sorted: BTreeSet<Requirement> = requirements.into_iter().collect();
        LabelSelector {
            requirements: sorted.into_iter().collect(),
        }
    }

    /// Returns true if it selects an object with these labels. Of objects whose labels cannot be read, it selects those that
    /// it would select with any labels. This is the reading for what allows.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.is_everything()
            || !labels.is_unreadable() && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Returns true if it selects an object with these labels, or may select it because its labels cannot be read. This is the
    /// reading for what denies.
    #[must_use]
    pub fn may_match(&self, labels: &Labels) -> bool {
        labels.is_unreadable() || self.matches(labels)
    }

    /// Returns true if it selects everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Returns the requirements, sorted by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, requirement) in self.requirements.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

/// `matchExpressions[].operator`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// The key exists and has one of the values.
    In,
    /// The key is absent or has none of the values.
    NotIn,
    /// The key exists.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

/// One `matchExpressions` entry, or one entry of `matchLabels`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RequirementFields")]
pub struct Requirement {
    key: Arc<str>,
    operator: Operator,
    values: Arc<[Arc<str>]>,
}

/// The fields of a [`Requirement`] as they were written, not yet checked.
#[derive(Deserialize)]
struct RequirementFields {
    key: Arc<str>,
    operator: Operator,
    values: Vec<Arc<str>>,
}

impl TryFrom<RequirementFields> for Requirement {
    type Error = RequirementError;

    fn try_from(fields: RequirementFields) -> Result<Requirement, RequirementError> {
        Requirement::new(fields.key, fields.operator, fields.values)
    }
}

/// A requirement that the API does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    /// Key or value are no label key or value, so nothing could ever match.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// `In` and `NotIn` without a value.
    #[error("{0:?} needs at least one value")]
    NoValues(Operator),
    /// `Exists` and `DoesNotExist` with a value.
    #[error("{0:?} takes no values")]
    Values(Operator),
}

impl Requirement {
    /// Makes a requirement on a key.
    ///
    /// # Errors
    /// Refuses keys and values that no label can have, and values that do not fit the operator.
    pub fn new<V: Into<Arc<str>>>(
        key: impl Into<Arc<str>>,
        operator: Operator,
        values: impl IntoIterator<Item = V>,
    ) -> Result<Requirement, RequirementError> {
        let key = key.into();
        check_label_key(&key)?;
        let values: BTreeSet<Arc<str>> = values.into_iter().map(Into::into).collect();
        for value in &values {
            check_label_value(value)?;
        }
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => return Err(RequirementError::NoValues(operator)),
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                return Err(RequirementError::Values(operator));
            }
            _ => {}
        }
        Ok(Requirement {
            key,
            operator,
            values: values.into_iter().collect(),
        })
    }

    /// Makes the requirement of one entry of `matchLabels`.
    ///
    /// # Errors
    /// Refuses keys and values that no label can have.
    pub fn label(key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Result<Requirement, RequirementError> {
        Requirement::new(key, Operator::In, [value.into()])
    }

    /// Returns true if these labels fulfil it.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = |value: &str| self.values.binary_search_by(|v| v.as_ref().cmp(value)).is_ok();
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }

    /// Returns the label key.
    #[must_use]
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Returns the operator.
    #[must_use]
    pub const fn operator(&self) -> Operator {
        self.operator
    }

    /// Returns the values of `In` and `NotIn`, sorted.
    #[must_use]
    pub fn values(&self) -> &[Arc<str>] {
        &self.values
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match (self.operator, self.values.as_ref()) {
            (Operator::Exists, _) => write!(f, "{key}"),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
            (Operator::In, [value]) => write!(f, "{key}={value}"),
            (Operator::NotIn, [value]) => write!(f, "{key}!={value}"),
            (Operator::In, values) => write!(f, "{key} in ({})", values.join(",")),
            (Operator::NotIn, values) => write!(f, "{key} notin ({})", values.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::new(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn operators_match_present_other_and_missing_labels() {
        let (has, other, none) = (labels(&[("a", "1")]), labels(&[("a", "2")]), labels(&[("b", "1")]));
        let verdicts = |operator, values: &[&str]| {
            let requirement = Requirement::new("a", operator, values.iter().copied()).unwrap();
            [&has, &other, &none].map(|labels| requirement.matches(labels))
        };
        assert_eq!(verdicts(Operator::In, &["1", "9"]), [true, false, false]);
        assert_eq!(verdicts(Operator::NotIn, &["1", "9"]), [false, true, true]);
        assert_eq!(verdicts(Operator::Exists, &[]), [true, true, false]);
        assert_eq!(verdicts(Operator::DoesNotExist, &[]), [false, false, true]);
    }

    #[test]
    fn all_requirements_must_match_and_an_empty_selector_matches_everything() {
        let both = LabelSelector::new([
            Requirement::label("a", "1").unwrap(),
            Requirement::new("b", Operator::Exists, [""; 0]).unwrap(),
        ]);
        assert!(both.matches(&labels(&[("a", "1"), ("b", "x")])));
        assert!(!both.matches(&labels(&[("a", "1")])));
        assert!(LabelSelector::everything().matches(&Labels::default()));
        assert_eq!(both.to_string(), "a=1,b");
    }

    #[test]
    fn unreadable_labels_may_match_everything_and_match_only_what_requires_nothing() {
        let unknown = Labels::unreadable();
        assert!(unknown.is_unreadable() && !Labels::default().is_unreadable());
        assert_eq!(unknown.to_string(), "(unreadable)");
        for operator in [Operator::Exists, Operator::DoesNotExist] {
            let selector = LabelSelector::new([Requirement::new("a", operator, [""; 0]).unwrap()]);
            assert!(!selector.matches(&unknown) && selector.may_match(&unknown));
            assert_eq!(
                selector.may_match(&Labels::default()),
                selector.matches(&Labels::default())
            );
        }
        assert!(LabelSelector::everything().matches(&unknown));
    }

    #[test]
    fn values_that_do_not_fit_the_operator_are_refused() {
        let refused = |operator, values: &[&str]| Requirement::new("a", operator, values.iter().copied()).unwrap_err();
        assert_eq!(refused(Operator::In, &[]), RequirementError::NoValues(Operator::In));
        assert_eq!(
            refused(Operator::NotIn, &[]),
            RequirementError::NoValues(Operator::NotIn)
        );
        assert_eq!(
            refused(Operator::Exists, &["x"]),
            RequirementError::Values(Operator::Exists)
        );
        assert_eq!(
            refused(Operator::DoesNotExist, &["x"]),
            RequirementError::Values(Operator::DoesNotExist)
        );
        assert!(matches!(
            refused(Operator::In, &["not a value"]),
            RequirementError::Label(_)
        ));
    }

    #[test]
    fn selectors_are_equal_in_any_order_of_requirements() {
        let (a, b) = (
            Requirement::label("a", "1").unwrap(),
            Requirement::label("b", "2").unwrap(),
        );
        assert_eq!(
            LabelSelector::new([a.clone(), b.clone()]),
            LabelSelector::new([b, a.clone(), a])
        );
    }
}
