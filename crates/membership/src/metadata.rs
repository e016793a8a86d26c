//! What nodes say about themselves, beside that they live.
//!
//! Whichever path brings it, the highest (incarnation, version) wins and an equal one changes
//! nothing, so the order of arrival does not matter.

use hyperscale_model::{Incarnation, Version};

/// The largest metadata of a node.
pub const METADATA_BYTES_MAX: usize = 512;

/// Metadata larger than [`METADATA_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("metadata of {bytes} bytes, more than {METADATA_BYTES_MAX}")]
pub struct MetadataError {
    bytes: usize,
}

/// What a node says about itself (role, addresses, cores, load): bytes that only its readers
/// understand, and that fit a datagram.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata(Vec<u8>);

impl Metadata {
    /// Takes encoded metadata.
    ///
    /// # Errors
    ///
    /// If there are more than [`METADATA_BYTES_MAX`] bytes.
    pub fn new(bytes: Vec<u8>) -> Result<Self, MetadataError> {
        if bytes.len() > METADATA_BYTES_MAX {
            return Err(MetadataError { bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Metadata with its place in the order of its node's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The life that said it.
    pub incarnation: Incarnation,
    /// Its number in that life.
    pub version: Version,
    /// What was said.
    pub metadata: Metadata,
}

impl Versioned {
    /// What decides between two.
    #[must_use]
    pub const fn order(&self) -> (Incarnation, Version) {
        (self.incarnation, self.version)
    }

    /// Whether this takes the place of what is held.
    #[must_use]
    pub fn is_newer_than(&self, held: Option<&Self>) -> bool {
        held.is_none_or(|held| self.order() > held.order())
    }
}
