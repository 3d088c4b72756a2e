//! Certificates and keys of the control plane, and kubeconfigs with client certificates.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};

use crate::LabError;

/// A certificate authority whose files lie in one folder.
#[derive(Debug)]
pub(super) struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority, and the key pair of the tokens of service accounts (`sa.key` and `sa.pub`).
    pub(super) fn new(folder: &Path) -> Result<Self, LabError> {
        let issuer = issuer().map_err(failed("the certificate authority"))?;
        let authority = Self {
            folder: folder.to_owned(),
            issuer,
        };
        authority.write("ca.crt", &authority.issuer.pem())?;
        // The controllers sign requests for certificates with it.
        authority.write("ca.key", &authority.issuer.key().serialize_pem())?;
        let tokens = KeyPair::generate().map_err(failed("the key of the tokens"))?;
        authority.write("sa.key", &tokens.serialize_pem())?;
        authority.write("sa.pub", &tokens.public_key_pem())?;
        Ok(authority)
    }

    /// Returns the path of one of its files.
    pub(super) fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }

    /// Makes the certificate of a server for these addresses: `NAME.crt` and `NAME.key`.
    pub(super) fn serve(&self, name: &str, addresses: &[IpAddr]) -> Result<(), LabError> {
        let names = [
            "kubernetes.default.svc".to_owned(),
            "kubernetes".to_owned(),
            "localhost".to_owned(),
        ];
        let addresses = addresses.iter().map(ToString::to_string);
        let sans: Vec<String> = names.into_iter().chain(addresses).collect();
        self.issue(name, &sans, name, None, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Makes the certificate of a client with a user name and a group, and the kubeconfig `NAME.kubeconfig`.
    pub(super) fn client(&self, name: &str, user: &str, group: Option<&str>, server: &str) -> Result<(), LabError> {
        self.issue(name, &[], user, group, ExtendedKeyUsagePurpose::ClientAuth)?;
        let user = json!({
            "client-certificate": self.path(&format!("{name}.crt")),
            "client-key": self.path(&format!("{name}.key")),
        });
        let kubeconfig = self.kubeconfig(server, &user);
        self.write(&format!("{name}.kubeconfig"), &kubeconfig.to_string())
    }

    /// Returns a kubeconfig, which is YAML and therefore may be JSON.
    pub(super) fn kubeconfig(&self, server: &str, user: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": self.path("ca.crt")}}],
            "users": [{"name": "lab", "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        })
    }

    fn issue(
        &self,
        file: &str,
        sans: &[String],
        user: &str,
        group: Option<&str>,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<(), LabError> {
        let made = || -> Result<(String, String), rcgen::Error> {
            let mut params = CertificateParams::new(sans)?;
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, user);
            if let Some(group) = group {
                params.distinguished_name.push(DnType::OrganizationName, group);
            }
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![purpose];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok((certificate.pem(), key.serialize_pem()))
        };
        let (certificate, key) = made().map_err(failed(file))?;
        self.write(&format!("{file}.crt"), &certificate)?;
        self.write(&format!("{file}.key"), &key)
    }

    /// Writes a file. A rename puts it into place, because a server may read it at any time.
    fn write(&self, file: &str, text: &str) -> Result<(), LabError> {
        let (path, draft) = (self.folder.join(file), self.folder.join(format!(".{file}")));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(LabError::io(format!("writing {}", path.display())))
    }
}

fn issuer() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "heddle-lab");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn failed(what: &str) -> impl FnOnce(rcgen::Error) -> LabError {
    let what = format!("making {what}");
    move |e| LabError::Reply {
        what,
        detail: e.to_string(),
    }
}
