//! The cluster's identity: a certificate authority of its own, and a certificate for each node that
//! says what the node may be.
//!
//! A node's certificate carries one URI, `hyperscale://CLUSTER/DATACENTER/ROLE+ROLE`. Both ends of
//! a link show a certificate of the same authority (TLS 1.3), and what a node says of itself in its
//! hello must be what its certificate says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::Role;
use hyperscale_wire::{Hello, HelloError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use time::OffsetDateTime;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::drive::NodeError;
use crate::keys::{self, GossipKeys, read_key, text_of};
use crate::storage::{disk, fill};

/// The name that every node's certificate has beside its URI: nodes are known by what they may be,
/// not by where they are.
const NAME: &str = "node.hyperscale";
const SCHEME: &str = "hyperscale://";
/// The file with the key by which gates share secrets.
const CLUSTER_KEY: &str = "cluster.key";
/// The file with the certificates that count no more, each by its SHA-256, one a line. It may be
/// written while nodes run: they look at it with each link, and again while the link is up.
const REVOKED: &str = "revoked";
/// Between two looks at that file while a link is up.
const REVOKED_EVERY: Duration = Duration::from_secs(2);
/// How much earlier than now a certificate is valid, for clocks that are behind.
const VALID_BEFORE: Duration = Duration::from_secs(24 * 3_600);

/// What a node needs to show who it is, and to check others.
#[derive(Clone)]
pub struct Certificates {
    /// Where all of it lies.
    directory: PathBuf,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    /// What the gates of a cluster seal secrets with.
    cluster_key: Option<[u8; 32]>,
    /// What all nodes seal their gossip with, as it was at the start.
    gossip: Option<GossipKeys>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

/// What a certificate says its holder may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certified {
    cluster: String,
    datacenter: String,
    roles: Vec<String>,
    /// Its SHA-256.
    fingerprint: String,
    /// The file in which it stands once it counts no more.
    revoked: PathBuf,
}

/// Makes a cluster's certificate authority: `ca.pem` and `ca.key` in a directory, and the key by
/// which its gates share secrets, `cluster.key`, and that of its gossip, `gossip.key`.
///
/// # Errors
///
/// If there is one already, or the directory cannot be written.
pub fn make_authority(directory: &Path, cluster: &str) -> Result<(), NodeError> {
    let (pem, key) = (directory.join("ca.pem"), directory.join("ca.key"));
    if pem.exists() || key.exists() {
        let message = format!("{} holds a certificate authority already", directory.display());
        return Err(NodeError::Config(message));
    }
    let pair = KeyPair::generate().map_err(|error| made("the authority's key", &error))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("hyperscale {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate =
        params.self_signed(&pair).map_err(|error| made("the authority's certificate", &error))?;
    fs::create_dir_all(directory).map_err(disk(directory, "this directory cannot be made"))?;
    write_secret(&key, &pair.serialize_pem())?;
    for name in [CLUSTER_KEY, keys::CURRENT] {
        let mut shared = [0; 32];
        fill(&mut shared)?;
        write_secret(&directory.join(name), &text_of(&shared))?;
    }
    fs::write(&pem, certificate.pem()).map_err(disk(&pem, "this file cannot be written"))
}

/// Makes a node's certificate: `node.pem` and `node.key`, and a copy of `ca.pem`, in a directory;
/// of the keys of gossip, for a gate also a copy of `cluster.key`.
///
/// # Errors
///
/// If the authority cannot be read or the directory cannot be written.
pub fn make_node(
    authority: &Path,
    directory: &Path,
    cluster: &str,
    datacenter: &str,
    roles: &[Role],
    valid: Duration,
) -> Result<(), NodeError> {
    for (what, name) in [("cluster", cluster), ("datacenter", datacenter)] {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(is_plain) {
            let message =
                format!("the {what} `{name}` may have letters, digits, `-`, `_` and `.` only");
            return Err(NodeError::Config(message));
        }
    }
    let read =
        |path: &Path| fs::read_to_string(path).map_err(disk(path, "this file cannot be read"));
    let ca_pem = read(&authority.join("ca.pem"))?;
    let ca_key = KeyPair::from_pem(&read(&authority.join("ca.key"))?)
        .map_err(|error| made("the authority's key", &error))?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, &ca_key)
        .map_err(|error| made("the authority's certificate", &error))?;
    let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let uri = format!("{SCHEME}{cluster}/{datacenter}/{}", roles.join("+"));
    let mut params = CertificateParams::new(vec![NAME.to_owned()])
        .map_err(|error| made("the node's certificate", &error))?;
    let uri = uri.try_into().map_err(|error| made("the node's certificate", &error))?;
    params.subject_alt_names.push(SanType::URI(uri));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, roles.join("+"));
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - VALID_BEFORE, now + valid);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let pair = KeyPair::generate().map_err(|error| made("the node's key", &error))?;
    let certificate =
        params.signed_by(&pair, &issuer).map_err(|error| made("the node's certificate", &error))?;
    fs::create_dir_all(directory).map_err(disk(directory, "this directory cannot be made"))?;
    write_secret(&directory.join("node.key"), &pair.serialize_pem())?;
    for (name, text) in [("node.pem", certificate.pem()), ("ca.pem", ca_pem)] {
        let path = directory.join(name);
        fs::write(&path, text).map_err(disk(&path, "this file cannot be written"))?;
    }
    let revoked = authority.join(REVOKED);
    if revoked.exists() {
        let path = directory.join(REVOKED);
        fs::write(&path, read(&revoked)?).map_err(disk(&path, "this file cannot be written"))?;
    }
    let is_gate = roles.contains(&Role::Gate.as_str());
    for name in keys::FILES.into_iter().chain(is_gate.then_some(CLUSTER_KEY)) {
        let shared = authority.join(name);
        if shared.exists() {
            write_secret(&directory.join(name), &read(&shared)?)?;
        }
    }
    Ok(())
}

/// Notes in the directory of the authority that a node's certificate counts no more. The file
/// `revoked` has to be copied beside the certificates of all other nodes; from then on none of them
/// makes a link with its holder.
///
/// # Errors
///
/// If the certificate cannot be read or the file cannot be written.
pub fn revoke(authority: &Path, certificate: &Path) -> Result<PathBuf, NodeError> {
    let bytes = fs::read(certificate).map_err(disk(certificate, "this file cannot be read"))?;
    let first = CertificateDer::pem_slice_iter(&bytes).next();
    let Some(Ok(first)) = first else {
        let message = format!("{} holds no certificate", certificate.display());
        return Err(NodeError::Config(message));
    };
    let path = authority.join(REVOKED);
    let mut known = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(disk(&path, "this file cannot be read")(error)),
    };
    known.push_str(&format!("{} {}\n", fingerprint(&first), certificate.display()));
    fs::write(&path, known).map_err(disk(&path, "this file cannot be written"))?;
    Ok(path)
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hyperscale_blobs::hash_of(certificate).to_string()
}

impl Certificates {
    /// Reads `ca.pem`, `node.pem` and `node.key` from a directory, and `cluster.key` and the keys of
    /// gossip if they are there.
    ///
    /// # Errors
    ///
    /// If one of them cannot be read or used.
    pub fn read(directory: &Path) -> Result<Self, NodeError> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).map_err(disk(&path, "this file cannot be read"))
        };
        let unusable = |name: &str, error: &dyn std::fmt::Display| {
            NodeError::Config(format!("{}: {error}", directory.join(name).display()))
        };
        let chain_of = |name: &str| -> Result<Vec<CertificateDer<'static>>, NodeError> {
            CertificateDer::pem_slice_iter(&read(name)?)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| unusable(name, &error))
        };
        let mut roots = RootCertStore::empty();
        for certificate in chain_of("ca.pem")? {
            roots.add(certificate).map_err(|error| unusable("ca.pem", &error))?;
        }
        let roots = Arc::new(roots);
        let chain = chain_of("node.pem")?;
        let key = || {
            PrivateKeyDer::from_pem_slice(&read("node.key")?)
                .map_err(|error| unusable("node.key", &error))
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = [&rustls::version::TLS13];
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| unusable("ca.pem", &error))?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| unusable("node.pem", &error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .map_err(|error| unusable("node.pem", &error))?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| unusable("node.pem", &error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)
            .map_err(|error| unusable("node.pem", &error))?;
        let cluster_key = read_key(&directory.join(CLUSTER_KEY))?;
        let gossip = GossipKeys::read(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            cluster_key,
            gossip,
        })
    }

    /// What all nodes sealed their gossip with at the start, if it lay beside the certificate, and
    /// where to look for what has become of it.
    pub(crate) fn gossip(&self) -> Option<(&Path, &GossipKeys)> {
        Some((self.directory.as_path(), self.gossip.as_ref()?))
    }

    /// What the gates of the cluster seal secrets with, if it lies beside the certificate.
    pub(crate) const fn cluster_key(&self) -> Option<[u8; 32]> {
        self.cluster_key
    }

    pub(crate) async fn accept(
        &self,
        stream: tokio::net::TcpStream,
    ) -> io::Result<(tokio_rustls::server::TlsStream<tokio::net::TcpStream>, Certified)> {
        let stream = self.acceptor.accept(stream).await?;
        let certified = self.certified(stream.get_ref().1.peer_certificates())?;
        Ok((stream, certified))
    }

    pub(crate) async fn connect(
        &self,
        stream: tokio::net::TcpStream,
    ) -> io::Result<(tokio_rustls::client::TlsStream<tokio::net::TcpStream>, Certified)> {
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let stream = self.connector.connect(name, stream).await?;
        let certified = self.certified(stream.get_ref().1.peer_certificates())?;
        Ok((stream, certified))
    }

    /// What the other end's certificate says, unless it was revoked.
    fn certified(&self, chain: Option<&[CertificateDer<'_>]>) -> io::Result<Certified> {
        let certified = certified(chain, self.directory.join(REVOKED))?;
        if certified.is_revoked()? {
            let message = "its certificate was revoked";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(certified)
    }
}

impl Certified {
    /// Whether it counts no more. An error is as good as a yes: better no link than one with
    /// somebody who may be shut out.
    fn is_revoked(&self) -> io::Result<bool> {
        let known = match fs::read_to_string(&self.revoked) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut listed = known.lines().filter_map(|line| line.split_whitespace().next());
        Ok(listed.any(|revoked| revoked == self.fingerprint))
    }

    /// Returns once it counts no more, with an error if that cannot be told.
    pub(crate) async fn until_revoked(&self) -> io::Result<()> {
        loop {
            tokio::time::sleep(REVOKED_EVERY).await;
            if self.is_revoked()? {
                return Ok(());
            }
        }
    }

    /// Whether a node is what it says.
    pub(crate) fn check(&self, hello: &Hello) -> Result<(), HelloError> {
        let is_true = self.cluster == hello.cluster
            && self.datacenter == hello.datacenter.as_str()
            && self.roles.iter().any(|role| role == hello.role.as_str());
        if is_true {
            return Ok(());
        }
        Err(HelloError::Certificate {
            claimed: format!("{} of {} in {}", hello.role, hello.cluster, hello.datacenter),
            certified: format!(
                "{} of {} in {}",
                self.roles.join(" or "),
                self.cluster,
                self.datacenter
            ),
        })
    }
}

fn certified(chain: Option<&[CertificateDer<'_>]>, revoked: PathBuf) -> io::Result<Certified> {
    let bad = |message: &str| io::Error::new(io::ErrorKind::InvalidData, message.to_owned());
    let first = chain.and_then(<[_]>::first).ok_or_else(|| bad("it shows no certificate"))?;
    let (_, certificate) = X509Certificate::from_der(first)
        .map_err(|error| bad(&format!("its certificate cannot be read: {error}")))?;
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .ok_or_else(|| bad("its certificate has no names"))?;
    let uri = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
        _ => None,
    });
    let uri = uri.ok_or_else(|| bad("its certificate is none of a node"))?;
    let mut parts = uri.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(cluster), Some(datacenter), Some(roles), None) => Ok(Certified {
            cluster: cluster.to_owned(),
            datacenter: datacenter.to_owned(),
            roles: roles.split('+').map(str::to_owned).collect(),
            fingerprint: fingerprint(first),
            revoked,
        }),
        _ => Err(bad("its certificate is none of a node")),
    }
}

fn made(what: &str, error: &dyn std::fmt::Display) -> NodeError {
    NodeError::Config(format!("{what} cannot be made or read: {error}"))
}

/// Writes a key that only its owner may read, in the place of an earlier one.
fn write_secret(path: &PathBuf, text: &str) -> Result<(), NodeError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = || -> io::Result<()> {
        // Under another name first: nobody reads half a key, or one with the old one's rights.
        let beside = path.with_extension("key.part");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(disk(path, "this key cannot be written"))
}

#[cfg(test)]
mod tests {
    use hyperscale_model::{DatacenterId, Incarnation, NodeId};
    use hyperscale_wire::{PROTOCOL_MAX, PROTOCOL_MIN};

    use super::*;

    #[test]
    fn sec_01_a_certificate_says_what_its_holder_may_be() {
        let directory = tempfile::tempdir().unwrap();
        let (ca, node) = (directory.path().join("ca"), directory.path().join("node"));
        make_authority(&ca, "blue").unwrap();
        assert!(make_authority(&ca, "blue").is_err(), "an authority is never replaced");
        make_node(&ca, &node, "blue", "eu", &[Role::Worker], Duration::from_secs(60)).unwrap();
        Certificates::read(&node).unwrap();

        let pem = fs::read(node.join("node.pem")).unwrap();
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect();
        let certified = certified(Some(&chain), node.join(REVOKED)).unwrap();
        let hello = |cluster: &str, datacenter: &str, role| Hello {
            cluster: cluster.to_owned(),
            environment: "test".to_owned(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            node: NodeId(1),
            role,
            to: Role::Manager,
            datacenter: DatacenterId::from(datacenter),
            incarnation: Incarnation(1),
            features: Vec::new(),
            address: None,
        };

        assert_eq!(certified.check(&hello("blue", "eu", Role::Worker)), Ok(()));
        assert!(certified.check(&hello("red", "eu", Role::Worker)).is_err());
        assert!(certified.check(&hello("blue", "us", Role::Worker)).is_err());
        assert!(certified.check(&hello("blue", "eu", Role::Gate)).is_err());
        // Its successor is written over it, while it is in use.
        make_node(&ca, &node, "blue", "eu", &[Role::Manager], Duration::from_secs(60)).unwrap();
        Certificates::read(&node).unwrap();
        assert_ne!(fs::read(node.join("node.pem")).unwrap(), pem);
    }
}
