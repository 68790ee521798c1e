//! Devices, authorities and revocation lists with ML-DSA-44 keys.

use anchorgate::cli::quickstart::pki::KeyKind;
use anchorgate::trust::subject::SubjectField;

use super::{Gateway, now};

#[tokio::test(flavor = "multi_thread")]
async fn devices_with_ml_dsa_get_tokens_resume_and_are_revoked() {
    let gateway = Gateway::start_with_keys(KeyKind::MlDsa44, &[SubjectField::SanDns]).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let [kept, revoked] = [&domain.devices[0], &domain.devices[1]];
    let device = gateway.device(domain, 1);
    let mut first = gateway.connect(&device).await;
    assert!(!first.resumed);
    assert_eq!(first.token(&revoked.subject_id).await.expect("a response").status, 200);
    let mut second = gateway.connect(&device).await;
    assert!(second.resumed);
    assert_eq!(second.token(&revoked.subject_id).await.expect("a response").status, 200);

    gateway.world.revoke(domain, revoked, 3, now()).expect("published");
    gateway.until(&mut second, &revoked.subject_id, 401).await;
    let mut other = gateway.connect(&gateway.device(domain, 0)).await;
    assert_eq!(other.token(&kept.subject_id).await.expect("a response").status, 200);

    let (_, metrics) = gateway.admin("/metrics").await;
    for counter in [
        "anchorgate_handshake_signatures_total{signature=\"ML_DSA_44\"}",
        "anchorgate_handshake_groups_total{listener=\"token\",group=\"X25519MLKEM768\"}",
    ] {
        assert!(metrics.contains(counter), "{counter} is not in {metrics}");
    }
}
