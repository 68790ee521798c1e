//! Devices of each subject field, judged for every request.

use super::*;

/// An authority, and devices below it that have one value of every subject field.
struct World {
    root: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl World {
    fn new(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let key = rcgen::KeyPair::generate().expect("a key");
        Self { root: rcgen::CertifiedIssuer::self_signed(params, key).expect("a root") }
    }

    fn device(&self) -> Peer {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Acme");
        params.distinguished_name.push(rcgen::DnType::CommonName, "dev1");
        params.subject_alt_names = vec![
            rcgen::SanType::DnsName("dev1.example".try_into().expect("IA5")),
            rcgen::SanType::URI("spiffe://acme/dev1".try_into().expect("IA5")),
            rcgen::SanType::IpAddress([10, 0, 0, 1].into()),
            rcgen::SanType::Rfc822Name("dev1@acme.example".try_into().expect("IA5")),
        ];
        let not_after = time::OffsetDateTime::from_unix_timestamp(NOW.0 + 3600);
        params.not_after = not_after.expect("a time");
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.root).expect("a certificate");
        peer(UnverifiedChain::from_der(&[leaf.der()]).map(Arc::new))
    }

    fn configuration(&self, id: &str, subject_field: SubjectField) -> Configuration<Device> {
        let certificate = Certificate::from_der(self.root.der()).expect("readable");
        Configuration {
            id: id.into(),
            domain: Arc::default(),
            display_name: id.to_owned(),
            kind: Device { subject_field, devices: Devices::Any },
            authorities: vec![Authority {
                certificate: Arc::new(certificate),
                is_root: true,
                crl_url: None,
                delta_crl_url: None,
            }],
        }
    }
}

fn snapshot(generation: u64, configurations: Vec<Configuration<Device>>) -> Snapshot {
    let anchors = Arc::new(Configurations::from_iter(configurations));
    let empty = Snapshot::default();
    Snapshot::new(generation, anchors, empty.revocations, empty.policy, empty.signatures)
}

fn decide(peer: &Peer, trust: &Snapshot, client_id: &str, at: Timestamp) -> Result<Claims, Code> {
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "client_credentials")
        .append_pair("client_id", client_id)
        .finish();
    let outcome = service(false).decide(
        &head("POST", TOKEN_PATH),
        &form.into(),
        on_token_listener(peer),
        trust,
        &keys(),
        inputs(at, 0),
    );
    match outcome.decision {
        Ok(issued) => Ok(issued.claims),
        Err(OauthError::InvalidClient(refusal)) => Err(refusal.code),
        Err(other) => panic!("{other}"),
    }
}

/// 8705-5, 8705-8: the chain ends at the configuration's anchor, and its field names the device.
#[test]
fn identifies_devices_by_each_subject_field() {
    let world = World::new("root");
    let device = world.device();
    for (field, id, sub) in [
        (SubjectField::SubjectDn, "cn=dev1, o=Acme", "c1/CN=dev1,O=Acme"),
        (SubjectField::SanDns, "dev1.example", "c1/dev1.example"),
        (SubjectField::SanUri, "spiffe://acme/dev1", "c1/spiffe%3A//acme/dev1"),
        (SubjectField::SanIp, "10.0.0.1", "c1/10.0.0.1"),
        (SubjectField::SanEmail, "dev1@acme.example", "c1/dev1@acme.example"),
    ] {
        let trust = snapshot(3, vec![world.configuration("c1", field)]);
        assert_eq!(decide(&device, &trust, id, NOW).map(|c| c.sub), Ok(sub.to_owned()));
        for other in ["dev1", "dev2.example", "CN=dev1", "10.0.0.2"] {
            assert_eq!(decide(&device, &trust, other, NOW), Err(Code::ClientUnknown), "{field:?}");
        }
    }
}

/// Invariant 1: requests on an open connection are judged under the current snapshot.
#[test]
fn judges_every_request_of_an_open_connection() {
    let world = World::new("root");
    let device = world.device();
    let before = snapshot(1, vec![world.configuration("c1", SubjectField::SanDns)]);
    let mut other = World::new("other").configuration("c1", SubjectField::SanDns);
    assert!(decide(&device, &before, "dev1.example", NOW).is_ok());
    let removed = snapshot(2, Vec::new());
    assert_eq!(decide(&device, &removed, "dev1.example", NOW), Err(Code::ChainUntrusted));
    let replaced = snapshot(3, vec![other.clone()]);
    assert_eq!(decide(&device, &replaced, "dev1.example", NOW), Err(Code::ChainUntrusted));
    other.authorities.extend(world.configuration("c1", SubjectField::SanDns).authorities);
    let put_back = snapshot(4, vec![other]);
    assert!(decide(&device, &put_back, "dev1.example", NOW).is_ok());

    let end = NOW.after(Duration::from_secs(3600));
    assert_eq!(decide(&device, &put_back, "dev1.example", end), Err(Code::CertificateExpired));
    let late = NOW.after(Duration::from_secs(3599));
    assert_eq!(decide(&device, &put_back, "dev1.example", late).map(|c| c.exp), Ok(end.0));
}

#[test]
fn client_id_selects_one_of_several_configurations() {
    let world = World::new("root");
    let device = world.device();
    let trust = snapshot(
        1,
        vec![
            world.configuration("c1", SubjectField::SanDns),
            world.configuration("c2", SubjectField::SanUri),
            world.configuration("c3", SubjectField::SanUri),
        ],
    );
    let sub = |id: &str| decide(&device, &trust, id, NOW).map(|c| c.sub);
    assert_eq!(sub("dev1.example"), Ok("c1/dev1.example".to_owned()));
    assert_eq!(sub("spiffe://acme/dev1"), Err(Code::ConfigurationAmbiguous));
}

/// An untrusted certificate is refused before the `client_id` is considered.
#[test]
fn refuses_an_untrusted_certificate_first() {
    let trust = snapshot(1, vec![World::new("root").configuration("c1", SubjectField::SanDns)]);
    let impostor = World::new("root").device();
    assert!(decide(&impostor, &trust, "dev1.example", NOW).is_err());
    assert_eq!(decide(&stranger(), &trust, "dev1.example", NOW), Err(Code::ChainUntrusted));
}

/// A stranger must not make the gateway interpret a long form, so a refused client gets
/// no error about its other parameters.
#[test]
fn authenticates_before_it_interprets_the_rest_of_the_form() {
    let world = World::new("root");
    let trust = snapshot(1, vec![world.configuration("c1", SubjectField::SanDns)]);
    let code = |peer: &Peer, client_id: &str| {
        let form = format!("grant_type=client_credentials&client_id={client_id}&scope=%zz");
        let (head, origin) = (head("POST", TOKEN_PATH), on_token_listener(peer));
        let inputs = inputs(NOW, 0);
        let outcome = service(false).decide(&head, &form.into(), origin, &trust, &keys(), inputs);
        outcome.decision.map(|_| ()).expect_err("refused").code()
    };
    assert_eq!(code(&stranger(), "dev1.example"), "invalid_client");
    assert_eq!(code(&world.device(), "dev2.example"), "invalid_client");
    assert_eq!(code(&world.device(), "dev1.example"), "invalid_request");
}
