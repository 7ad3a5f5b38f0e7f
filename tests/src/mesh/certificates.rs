//! The API server's authority, the certificates that it signs, and the key of the service accounts' tokens.

use std::fs;
use std::path::Path;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// Writes `ca.crt`, `api.{crt,key}`, `admin.{crt,key}` and `sa.{pub,key}` to `dir`. `address` is the API server's.
pub(super) fn write(dir: &Path, address: &str) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name("lab-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    fs::write(dir.join("ca.crt"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);

    let names = ["127.0.0.1", address, "kubernetes.default.svc"].map(str::to_owned).to_vec();
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name = name("kube-apiserver", None);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut admin = CertificateParams::default();
    admin.distinguished_name = name("admin", Some("system:masters")); // bound to the role cluster-admin
    admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for (file, params) in [("api", server), ("admin", admin)] {
        let key = KeyPair::generate()?;
        fs::write(dir.join(format!("{file}.crt")), params.signed_by(&key, &issuer)?.pem())?;
        fs::write(dir.join(format!("{file}.key")), key.serialize_pem())?;
    }

    let accounts = KeyPair::generate()?;
    fs::write(dir.join("sa.key"), accounts.serialize_pem())?;
    fs::write(dir.join("sa.pub"), accounts.public_key_pem())?;
    Ok(())
}

fn name(common: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}
