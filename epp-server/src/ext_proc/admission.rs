//! What operators' policies make of a request before an endpoint is picked: another model, a priority, a refusal.

use std::mem;

use p3sched::Request;
use p3sched::gateway::{Refusal, RequestHead};
use p3sched::openai::Body;

use super::model_name::json_string;
use super::route::Splice;
use crate::policies::PolicyTables;

/// A request as it goes on.
#[derive(Debug)]
pub(super) struct Admission {
    /// What the scheduler is asked; the model is the one that serves.
    pub(super) request: Request,
    /// The model that the client named, where another one serves.
    pub(super) asked_model: Option<String>,
    /// What puts the model that serves into the body.
    pub(super) splice: Option<Splice>,
    /// Name of the rule that named another model.
    pub(super) rewrite: Option<String>,
}

impl Admission {
    /// Applies the policies; `draw` decides among the targets of a rule.
    ///
    /// A rule goes before the model that the client itself asks for in a header, as in the reference picker.
    pub(super) fn new(tables: &PolicyTables, head: &RequestHead, body: Body, draw: u64) -> Self {
        let mut request = body.request;
        request.priority = tables.priority(head.objective.as_deref());
        let mut admission = Self { request, asked_model: None, splice: None, rewrite: None };
        let Some(span) = body.model_span else { return admission };
        let rule = tables.rewrite(&admission.request.model);
        let target = match rule {
            Some(rule) => rule.target(draw),
            None => head.model_rewrite.as_deref(),
        };
        admission.rewrite = rule.map(|rule| rule.name.clone());
        if let Some(target) = target.filter(|target| *target != admission.request.model) {
            admission.splice = Some(Splice { span, replacement: json_string(target) });
            admission.asked_model = Some(mem::replace(&mut admission.request.model, target.to_owned()));
        }
        admission
    }

    /// Refuses a model that the pool does not serve, where it lists its models.
    pub(super) fn check_model(&self, tables: &PolicyTables) -> Result<(), Refusal> {
        let model = &self.request.model;
        if model.is_empty() || tables.serves(model) { Ok(()) } else { Err(Refusal::unknown_model(model)) }
    }

    /// The model that the client named.
    pub(super) fn asked_model(&self) -> &str {
        self.asked_model.as_deref().unwrap_or(&self.request.model)
    }
}
