//! Decodes label selectors, exactly or as far as they can be read.

use heddle_model::{LabelSelector, Operator, Requirement};

use super::node::{Found, Node};

/// Reads a selector, and refuses any fault.
pub(super) fn selector(node: Node<'_>) -> Found<'_, LabelSelector> {
    let mut requirements = Vec::new();
    for (key, value) in node.entries("matchLabels")? {
        requirements.push(label(key, value)?);
    }
    for expression in node.items("matchExpressions")? {
        requirements.push(requirement(expression)?);
    }
    Ok(LabelSelector::new(requirements))
}

/// Reads a selector as far as possible. A wrong requirement is left out, so that the rest selects more and not less.
pub(super) fn readable(node: Node<'_>) -> LabelSelector {
    let mut requirements = Vec::new();
    if let Ok(labels) = node.entries("matchLabels") {
        requirements.extend(labels.filter_map(|(key, value)| label(key, value).ok()));
    }
    if let Ok(expressions) = node.items("matchExpressions") {
        requirements.extend(expressions.filter_map(|expression| requirement(expression).ok()));
    }
    LabelSelector::new(requirements)
}

fn label<'a>(key: &str, value: Node<'a>) -> Found<'a, Requirement> {
    value.parse(|text| Requirement::label(key, text))
}

fn requirement(node: Node<'_>) -> Found<'_, Requirement> {
    let operator = node.need("operator")?.parse(|text| match text {
        "In" => Ok(Operator::In),
        "NotIn" => Ok(Operator::NotIn),
        "Exists" => Ok(Operator::Exists),
        "DoesNotExist" => Ok(Operator::DoesNotExist),
        _ => Err("is no known operator: use In, NotIn, Exists or DoesNotExist"),
    })?;
    let key = node.need("key")?.text()?;
    let values = node
        .items("values")?
        .map(Node::text)
        .collect::<Found<'_, Vec<&str>>>()?;
    Requirement::new(key, operator, values).map_err(|error| node.fault(error))
}
