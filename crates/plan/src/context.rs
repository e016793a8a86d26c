//! What travels beside a plan: values that workflows published, and secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hyperscale_model::WorkflowIndex;
use serde::{Deserialize, Serialize};

use crate::expr::Value;

/// The most bytes that all published values of a job may take, so that they fit beside everything
/// else that one message says.
pub const CONTEXT_BYTES_MAX: usize = 512 << 10;

/// Values that workflows published, a layer for each workflow that has ended.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Context {
    /// The layers in the order of their workflows.
    pub layers: BTreeMap<WorkflowIndex, BTreeMap<String, Value>>,
}

impl Context {
    /// The value that a workflow published under a name.
    #[must_use]
    pub fn get(&self, workflow: WorkflowIndex, name: &str) -> Option<&Value> {
        self.layers.get(&workflow)?.get(name)
    }

    /// What these workflows published, and nothing else.
    #[must_use]
    pub fn of(&self, workflows: &BTreeSet<WorkflowIndex>) -> Self {
        let layers = self.layers.iter().filter(|(workflow, _)| workflows.contains(workflow));
        Self { layers: layers.map(|(workflow, layer)| (*workflow, layer.clone())).collect() }
    }
}

/// Secret values by name. They show nothing of themselves.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secrets(pub BTreeMap<String, String>);

impl Secrets {
    /// Replaces every secret value in `text`.
    #[must_use]
    pub fn mask(&self, text: &str) -> String {
        (self.0.values())
            .filter(|secret| secret.len() >= 3)
            .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
