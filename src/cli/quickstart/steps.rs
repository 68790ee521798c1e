//! The demonstration.  Each step prints its action, performs it as a client, and prints whether it
//! passed.

use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use rustls::version::TLS12;
use rustls::{ALL_VERSIONS, SupportedProtocolVersion};
use serde_json::{Value, json};

use crate::cli::quickstart::client::{Connection, Device};
use crate::cli::quickstart::world::{DIRECTORY_TOKEN, Domain, Member, World};
use crate::http::outbound::{ClientSettings, ServerAuthorities};
use crate::trust::subject::SubjectField;

/// Time limit for a change to come into force, above the poll interval of the configuration.
const IN_FORCE: Duration = Duration::from_secs(30);

/// The steps and their results.
pub(super) struct Steps<'a> {
    world: &'a World,
    /// Value of `tls.resumption`.
    resumption: &'a str,
    http: reqwest::Client,
    configuration_ids: Vec<String>,
    number: usize,
    failed: usize,
}

impl<'a> Steps<'a> {
    /// A demonstration in `world`, whose `tls.resumption` is `resumption`.
    pub(super) fn new(world: &'a World, resumption: &'a str) -> anyhow::Result<Self> {
        let settings = ClientSettings {
            authorities: ServerAuthorities::Only(world.server_root.certificate_pem().into()),
            request: Some(Duration::from_secs(10)),
            ..ClientSettings::default()
        };
        let http = settings.client()?;
        Ok(Self { world, resumption, http, configuration_ids: Vec::new(), number: 0, failed: 0 })
    }

    /// Ids of the created configurations, in the order of the world's domains.
    pub(super) fn configuration_ids(&self) -> &[String] {
        &self.configuration_ids
    }

    /// Prints a summary.  Returns true if every step passed.
    pub(super) fn finish(&self) -> bool {
        match self.failed {
            0 => println!("\nAll {} steps passed.", self.number),
            failed => println!("\n{failed} of {} steps FAILED.", self.number),
        }
        self.failed == 0
    }

    /// Performs all steps in order.
    pub(super) async fn all(&mut self) {
        self.title(
            "An administrator creates five configurations in the directory, one for each subject \
             field.",
            &format!(
                "curl --cacert {ca} -H \"Authorization: Bearer $(cat {token})\" \\\n      \
                 https://localhost:{port}/beta/directory/certificateAuthorities/mutualTlsOauthConfigurations",
                ca = self.ca(),
                token = self.world.dir.join(DIRECTORY_TOKEN).display(),
                port = self.world.ports.directory.port(),
            ),
        );
        let created = self.create_configurations().await;
        if !self.outcome(&created) {
            // All further steps would fail.
            return;
        }
        for domain in &self.world.domains {
            self.title(
                &format!(
                    "Two devices identified by {} obtain a token each, which a resource server checks.",
                    domain.field.as_str()
                ),
                &self.curl(&domain.devices[0]),
            );
            let got = self.tokens(domain).await;
            self.outcome(&got);
        }
        self.title(
            "A device is revoked by a delta CRL: it is refused on its open connection and on a \
             resumed session, while another device stays connected.",
            &self.revocation_commands(),
        );
        let revoked = self.revocation().await;
        self.outcome(&revoked);
        self.title(
            "An anchor is removed from its configuration: its devices are refused on open \
             connections, and others are not affected. After it is added again, they are served.",
            &self.removal_commands(),
        );
        let removed = self.anchor_removal().await;
        self.outcome(&removed);
    }

    /// Commands that show the delta list, and that the revoked device is refused.
    fn revocation_commands(&self) -> String {
        let list = self.world.dir.join("crl/dns-issuer-delta.crl");
        let show = format!("openssl crl -inform DER -noout -text -in {}", list.display());
        match self.domain(SubjectField::SanDns) {
            Ok(domain) => format!(
                "{show}\n   $ {}\n   It fails with \"alert certificate revoked\".",
                self.curl(&domain.devices[2])
            ),
            Err(_) => show,
        }
    }

    /// Commands that remove the anchor, and add it again.
    fn removal_commands(&self) -> String {
        let domain = self.domain(SubjectField::SanUri);
        let Some((domain, id)) = domain.ok().and_then(|d| Some((d, self.id(d)?))) else {
            return "anchorgate directory list".into();
        };
        let directory = format!(
            "anchorgate directory --url https://localhost:{port} --ca-bundle {ca} \\\n      \
             --token-file {token}",
            port = self.world.ports.directory.port(),
            ca = self.ca(),
            token = self.world.dir.join(DIRECTORY_TOKEN).display(),
        );
        let root = self.world.dir.join(format!("pki/{}-root.pem", domain.slug));
        let (root, crl) = (root.display(), self.world.list_url(domain, "root", false));
        let request = self.curl(&domain.devices[0]);
        format!(
            "{directory} remove-ca {id} {root}\n   $ {request}\n   It fails with \"alert unknown ca\" as \
             soon as the gateway has polled the directory.\n   $ {directory} add-ca {id} {root},crl={crl}"
        )
    }

    fn title(&mut self, what: &str, command: &str) {
        self.number += 1;
        println!("{}. {what}\n   $ {command}", self.number);
    }

    fn outcome(&mut self, result: &anyhow::Result<String>) -> bool {
        match result {
            Ok(result) => println!("   passed: {result}\n"),
            Err(error) => {
                self.failed += 1;
                println!("   FAILED: {error:#}\n");
            }
        }
        result.is_ok()
    }

    async fn create_configurations(&mut self) -> anyhow::Result<String> {
        for domain in &self.world.domains {
            let created: Value = self
                .http
                .post(self.directory(""))
                .bearer_auth(&self.world.directory_token)
                .json(&self.world.configuration(domain))
                .send()
                .await?
                .error_for_status()?
                .json()
                .await?;
            let id = created["id"].as_str().context("the new configuration has no id")?;
            self.configuration_ids.push(id.to_owned());
        }
        let list: Value = self
            .http
            .get(self.directory(""))
            .bearer_auth(&self.world.directory_token)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        let listed = list["value"].as_array().map_or(0, Vec::len);
        ensure!(listed == self.configuration_ids.len(), "{listed} configurations are listed");
        // When a device of the last one is served, its anchors and both of its lists are in force.
        let last = self.world.domains.last().context("no domain")?;
        eventually(async || match self.connect(&last.devices[0]).await {
            Ok(mut connection) => {
                let response = connection.token(&last.devices[0].subject_id).await?;
                ensure!(response.status == 200, "{} {}", response.status, response.body);
                Ok(())
            }
            Err(error) => Err(error),
        })
        .await
        .context("the gateway does not serve the new configurations")?;
        Ok(format!("{listed} configurations are in force"))
    }

    async fn tokens(&self, domain: &Domain) -> anyhow::Result<String> {
        let mut ids = Vec::new();
        for device in domain.devices.iter().take(2) {
            // The lists of each domain are fetched separately.
            let response = eventually(async || {
                let response = self.connect(device).await?.token(&device.subject_id).await?;
                ensure!(
                    response.status == 200,
                    "{}: {} {}",
                    device.name,
                    response.status,
                    response.body
                );
                Ok(response)
            })
            .await?;
            let token = response.body["access_token"].as_str().context("no access_token")?;
            let claims = self.check(token).await?;
            let thumbprint = base64::engine::general_purpose::URL_SAFE_NO_PAD
                .encode(device.identity.certificate.fingerprint.0);
            ensure!(
                claims["cnf"]["x5t#S256"] == json!(thumbprint),
                "{}: the token is bound to {}, not to the certificate {thumbprint}",
                device.name,
                claims["cnf"]
            );
            ensure!(
                claims["client_id"] == json!(device.subject_id),
                "{}: client_id is {}",
                device.name,
                claims["client_id"]
            );
            ids.push(format!("`{}`", device.subject_id));
        }
        Ok(format!("{} have tokens bound to their certificates", ids.join(" and ")))
    }

    /// Checks a token like a resource server: with the published keys only.
    async fn check(&self, token: &str) -> anyhow::Result<Value> {
        let issuer = format!("https://localhost:{}", self.world.ports.public.port());
        let metadata: Value =
            self.get(&format!("{issuer}/.well-known/oauth-authorization-server")).await?;
        let jwks_uri = metadata["jwks_uri"].as_str().context("metadata has no jwks_uri")?;
        let jwks: JwkSet = serde_json::from_value(self.get(jwks_uri).await?)?;
        let header = jsonwebtoken::decode_header(token)?;
        ensure!(header.typ.as_deref() == Some("at+jwt"), "typ is {:?}", header.typ);
        let kid = header.kid.context("the token has no kid")?;
        let key = jwks.find(&kid).context("the token's key is not published")?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&issuer]);
        validation.set_audience(&["https://api.quickstart.example"]);
        let decoded =
            jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(key)?, &validation)?;
        Ok(decoded.claims)
    }

    async fn get(&self, url: &str) -> anyhow::Result<Value> {
        Ok(self.http.get(url).send().await?.error_for_status()?.json().await?)
    }

    async fn revocation(&self) -> anyhow::Result<String> {
        let domain = self.domain(SubjectField::SanDns)?;
        let (other, revoked) = (&domain.devices[0], &domain.devices[2]);
        let device = match self.resumption {
            "1.2" => self.device_with(&[&TLS12], revoked)?,
            _ => self.device(revoked)?,
        };
        // A first connection, so that the device has a session to resume later.
        let mut first = device.connect(self.world.ports.token).await?;
        ensure!(
            first.token(&revoked.subject_id).await?.status == 200,
            "the device was refused before the change"
        );
        let mut open = device.connect(self.world.ports.token).await?;
        let mut other_connection = self.connect(other).await?;
        ensure!(
            open.token(&revoked.subject_id).await?.status == 200,
            "the device was refused before the change"
        );
        ensure!(
            other_connection.token(&other.subject_id).await?.status == 200,
            "the device was refused before the change"
        );

        let published = Instant::now();
        self.world.revoke(domain, revoked, 3, SystemTime::now().into())?;
        let took = wait_until_refused(&mut open, revoked, published).await?;
        let response = other_connection.token(&other.subject_id).await?;
        ensure!(response.status == 200, "the other got {} {}", response.status, response.body);

        let mut refused = "on its open connection";
        if self.resumption != "off" {
            let mut again = device.connect(self.world.ports.token).await?;
            ensure!(again.resumed, "the session was not resumed, so the step shows nothing");
            let response = again.token(&revoked.subject_id).await?;
            ensure!(response.status == 401, "the resumed session got {}", response.status);
            refused = "on its open connection and on a resumed session";
        }
        Ok(format!(
            "refused {refused}, {:.1} s after the list was published; the other device stays connected",
            took.as_secs_f32()
        ))
    }

    async fn anchor_removal(&self) -> anyhow::Result<String> {
        let domain = self.domain(SubjectField::SanUri)?;
        let (device, other) = (&domain.devices[0], &self.domain(SubjectField::SanIp)?.devices[0]);
        let mut open = self.connect(device).await?;
        let mut other_connection = self.connect(other).await?;
        ensure!(
            open.token(&device.subject_id).await?.status == 200,
            "the device was refused before the change"
        );
        ensure!(
            other_connection.token(&other.subject_id).await?.status == 200,
            "the device was refused before the change"
        );

        let all = self.world.authorities(domain);
        let without_root = json!([all[1]]);
        let changed = Instant::now();
        self.replace_authorities(domain, &without_root).await?;
        let removed = wait_until_refused(&mut open, device, changed).await?;
        let response = other_connection.token(&other.subject_id).await?;
        ensure!(response.status == 200, "the device of another domain got {}", response.status);

        let changed = Instant::now();
        self.replace_authorities(domain, &all).await?;
        eventually(async || {
            let response = self.connect(device).await?.token(&device.subject_id).await?;
            ensure!(response.status == 200, "{} {}", response.status, response.body);
            Ok(())
        })
        .await
        .context("the device is not served after the anchor was added again")?;
        Ok(format!(
            "refused {:.1} s after the removal, and served {:.1} s after the anchor was added again",
            removed.as_secs_f32(),
            changed.elapsed().as_secs_f32()
        ))
    }

    async fn replace_authorities(&self, domain: &Domain, list: &Value) -> anyhow::Result<()> {
        let id = self.id(domain).context("the configuration was not created")?;
        self.http
            .patch(self.directory(&format!("/{id}")))
            .bearer_auth(&self.world.directory_token)
            .json(&json!({ "certificateAuthorities": list }))
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    }

    /// Id of the configuration of `domain`, if it was created.
    fn id(&self, domain: &Domain) -> Option<&str> {
        let at = self.world.domains.iter().position(|d| d.slug == domain.slug)?;
        self.configuration_ids.get(at).map(String::as_str)
    }

    fn domain(&self, field: SubjectField) -> anyhow::Result<&'a Domain> {
        self.world.domains.iter().find(|d| d.field == field).context("no domain with this field")
    }

    fn device(&self, member: &Member) -> anyhow::Result<Device> {
        self.device_with(ALL_VERSIONS, member)
    }

    fn device_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        member: &Member,
    ) -> anyhow::Result<Device> {
        let ca = self.world.server_root.certificate_pem();
        let identity = &member.identity;
        Device::with_versions(versions, &ca, &identity.chain_pem, &identity.key_pem)
    }

    /// Opens a connection with a full handshake.
    async fn connect(&self, member: &Member) -> anyhow::Result<Connection> {
        self.device(member)?.connect(self.world.ports.token).await
    }

    fn directory(&self, below: &str) -> String {
        format!(
            "https://localhost:{}/beta/directory/certificateAuthorities/\
             mutualTlsOauthConfigurations{below}",
            self.world.ports.directory.port()
        )
    }

    fn ca(&self) -> String {
        self.world.dir.join("pki/server-root.pem").display().to_string()
    }

    fn curl(&self, device: &Member) -> String {
        let pki = self.world.dir.join("pki");
        format!(
            "curl --cacert {ca} --cert {pki}/{name}-chain.pem --key {pki}/{name}.key \\\n      -d \
             grant_type=client_credentials --data-urlencode 'client_id={id}' \
             https://localhost:{port}/oauth2/token",
            ca = self.ca(),
            pki = pki.display(),
            name = device.name,
            id = device.subject_id,
            port = self.world.ports.token.port(),
        )
    }
}

/// Requests tokens on one open connection until it is refused.  Returns the time since `since`.
async fn wait_until_refused(
    open: &mut Connection,
    device: &Member,
    since: Instant,
) -> anyhow::Result<Duration> {
    loop {
        let response = open.token(&device.subject_id).await.context("the connection was closed")?;
        if response.status == 401 {
            ensure!(response.body["error"] == "invalid_client", "refused with {}", response.body);
            return Ok(since.elapsed());
        }
        ensure!(response.status == 200, "{} {}", response.status, response.body);
        if since.elapsed() > IN_FORCE {
            bail!("still served on its open connection after {IN_FORCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Repeats `attempt` until it succeeds.  Returns its last error after [`IN_FORCE`].
async fn eventually<T, F>(mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let start = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > IN_FORCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
