//! Secrets at rest: sealed with the cluster's key, so that no ledger holds one in clear.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hyperscale_model::JobId;
use hyperscale_plan::Secrets;
use hyperscale_wire::{decode_value, encode_value};

/// Sealed secrets that this key does not open, or that are not of this job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SealError;

/// The random half of a job's id: each job seals once, so no nonce is used twice with a key.
fn nonce(job: JobId) -> [u8; 12] {
    let bytes = job.as_u128().to_be_bytes();
    std::array::from_fn(|i| bytes[i + 4])
}

pub(crate) fn seal(key: &[u8; 32], job: JobId, secrets: &Secrets) -> Result<Vec<u8>, SealError> {
    if secrets.is_empty() {
        return Ok(Vec::new());
    }
    let clear = encode_value(secrets).map_err(|_unwritable| SealError)?;
    let context = job.as_u128().to_be_bytes();
    ChaCha20Poly1305::new(Key::from_slice(key))
        .encrypt(Nonce::from_slice(&nonce(job)), Payload { msg: &clear, aad: &context })
        .map_err(|_opaque| SealError)
}

pub(crate) fn open(key: &[u8; 32], job: JobId, sealed: &[u8]) -> Result<Secrets, SealError> {
    if sealed.is_empty() {
        return Ok(Secrets::default());
    }
    let context = job.as_u128().to_be_bytes();
    let clear = ChaCha20Poly1305::new(Key::from_slice(key))
        .decrypt(Nonce::from_slice(&nonce(job)), Payload { msg: sealed, aad: &context })
        .map_err(|_opaque| SealError)?;
    decode_value(&clear).map_err(|_unreadable| SealError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_and_the_job_open_what_was_sealed() {
        let job = JobId::from_parts(1, 2);
        let secrets = Secrets([("token".to_owned(), "s3cret".to_owned())].into());

        let sealed = seal(&[1; 32], job, &secrets).unwrap();

        assert!(!sealed.windows(6).any(|bytes| bytes == b"s3cret"));
        assert_eq!(open(&[1; 32], job, &sealed), Ok(secrets));
        assert_eq!(open(&[2; 32], job, &sealed), Err(SealError));
        assert_eq!(open(&[1; 32], JobId::from_parts(1, 3), &sealed), Err(SealError));
    }
}
