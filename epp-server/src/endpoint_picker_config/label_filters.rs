//! Filters by the labels of endpoints.

use super::document::{Fault, Node};
use crate::label_selector::{Condition, LabelSelector, Requirement};

/// Label that says which part of the work an endpoint does.
const ROLE: &str = "llm-d.ai/role";

/// A filter by labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelFilter {
    /// Endpoints that decode; those without a role do all of the work.
    Decode,
    /// Endpoints that do prefill.
    Prefill,
    /// Endpoints that encode images.
    Encode,
    /// Values of one label.
    ByLabel,
    /// A label selector of Kubernetes.
    Selector,
}

impl LabelFilter {
    /// Adds what the filter requires.
    pub(super) fn read(
        self,
        plugin: &Node<'_>,
        parameters: Option<&Node<'_>>,
        selector: &mut LabelSelector,
    ) -> Result<(), Fault> {
        let role = |values: &[&str], or_absent: bool| {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            let condition = if or_absent { Condition::InOrAbsent(values) } else { Condition::In(values) };
            Requirement { label: ROLE.to_owned(), condition }
        };
        let of_role = match self {
            Self::Decode => role(&["decode", "prefill-decode", "both", "encode-prefill-decode"], true),
            Self::Prefill => {
                role(&["prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"], false)
            }
            Self::Encode => role(&["encode", "encode-prefill", "encode-prefill-decode"], false),
            Self::ByLabel | Self::Selector => {
                let Some(parameters) = parameters else {
                    return Err(plugin.fault("`parameters` are missing: they say which labels"));
                };
                let read = if self == Self::ByLabel { by_label } else { label_selector };
                return read(parameters, selector);
            }
        };
        selector.require(of_role);
        parameters.map_or(Ok(()), |parameters| parameters.only(&[]))
    }
}

fn by_label(parameters: &Node<'_>, selector: &mut LabelSelector) -> Result<(), Fault> {
    parameters.only(&["label", "validValues", "allowsNoLabel"])?;
    let label = parameters.required("label")?.to_owned();
    let values = texts(parameters, "validValues")?;
    let or_absent = parameters.get("allowsNoLabel").map(|or_absent| or_absent.boolean()).transpose()?;
    let condition = match or_absent.unwrap_or(false) {
        true => Condition::InOrAbsent(values),
        false if values.is_empty() => {
            return Err(parameters.fault("`validValues` are missing: without any, no endpoint is left"));
        }
        false => Condition::In(values),
    };
    selector.require(Requirement { label, condition });
    Ok(())
}

fn label_selector(parameters: &Node<'_>, selector: &mut LabelSelector) -> Result<(), Fault> {
    parameters.only(&["matchLabels", "matchExpressions"])?;
    if let Some(labels) = parameters.get("matchLabels") {
        for (label, value) in labels.entries()? {
            let condition = Condition::In(vec![value.text()?.to_owned()]);
            selector.require(Requirement { label: label.to_owned(), condition });
        }
    }
    for expression in parameters.list("matchExpressions")? {
        expression.only(&["key", "operator", "values"])?;
        let label = expression.required("key")?.to_owned();
        let values = texts(&expression, "values")?;
        let operator = expression.required("operator")?;
        let takes_values = matches!(operator, "In" | "NotIn");
        if takes_values == values.is_empty() {
            let message = if takes_values { "`values` are missing" } else { "there must be no `values`" };
            return Err(expression.fault(&format!("{message} with this operator: `{operator}`")));
        }
        let condition = match operator {
            "In" => Condition::In(values),
            "NotIn" => Condition::NotIn(values),
            "Exists" => Condition::Exists,
            "DoesNotExist" => Condition::Absent,
            _ => {
                let message = "must be `In`, `NotIn`, `Exists` or `DoesNotExist`";
                return Err(expression.get("operator").unwrap_or(expression).fault(message));
            }
        };
        selector.require(Requirement { label, condition });
    }
    Ok(())
}

fn texts(node: &Node<'_>, key: &str) -> Result<Vec<String>, Fault> {
    node.list(key)?.iter().map(|value| value.text().map(str::to_owned)).collect()
}
