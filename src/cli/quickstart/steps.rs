//! The demonstration: each step says what it does, does it from the outside, and says whether it held.

use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};

use crate::cli::quickstart::client::{Connection, Device};
use crate::cli::quickstart::world::{Domain, Member, World};
use crate::http::outbound::{ClientSettings, ServerAuthorities};
use crate::trust::subject::SubjectField;

/// How long a change may take to be in force: the poll interval of the configuration, with room.
const IN_FORCE: Duration = Duration::from_secs(30);

/// The steps and what came of them.
pub struct Steps<'a> {
    world: &'a World,
    http: reqwest::Client,
    configuration_ids: Vec<String>,
    number: usize,
    failed: usize,
}

impl<'a> Steps<'a> {
    /// A demonstration in `world`.
    pub fn new(world: &'a World) -> anyhow::Result<Self> {
        let settings = ClientSettings {
            authorities: ServerAuthorities::Only(world.server_root.certificate_pem().into()),
            request: Some(Duration::from_secs(10)),
            ..ClientSettings::default()
        };
        let http = settings.client()?;
        Ok(Self { world, http, configuration_ids: Vec::new(), number: 0, failed: 0 })
    }

    /// The ids the directory gave to the configurations, in the order of the world's domains.
    pub fn configuration_ids(&self) -> &[String] {
        &self.configuration_ids
    }

    /// Says how it went.  True when every step held.
    pub fn finish(&self) -> bool {
        match self.failed {
            0 => println!("\nEvery one of {} steps held.", self.number),
            failed => println!("\n{failed} of {} steps FAILED.", self.number),
        }
        self.failed == 0
    }

    /// All steps in order.
    pub async fn all(&mut self) {
        self.title(
            "An administrator creates five configurations in the directory, one for each way to \
             name a device.",
            &format!(
                "curl --cacert {ca} -H 'Authorization: Bearer {token}' \\\n      \
                 https://localhost:{port}/beta/directory/certificateAuthorities/mutualTlsOauthConfigurations",
                ca = self.ca(),
                token = self.world.directory_token,
                port = self.world.ports.directory.port(),
            ),
        );
        let created = self.create_configurations().await;
        if !self.outcome(&created) {
            // Nothing that follows could hold.
            return;
        }
        for domain in &self.world.domains {
            self.title(
                &format!(
                    "Two devices named by {} get a token each, and anyone can check it.",
                    domain.field.as_str()
                ),
                &self.curl(&domain.devices[0]),
            );
            let got = self.tokens(domain).await;
            self.outcome(&got);
        }
        self.title(
            "A device is revoked by a delta CRL: refused on the connection it has open and on the \
             session it resumes, while its neighbour's connection goes on.",
            &format!(
                "openssl crl -inform DER -noout -text -in {}",
                self.world.dir.join("crl/dns-issuer-delta.crl").display()
            ),
        );
        let revoked = self.revocation().await;
        self.outcome(&revoked);
        self.title(
            "An anchor is taken out of its configuration: its devices are refused on open \
             connections, the others notice nothing; put back, they are served again.",
            &format!(
                "curl --cacert {ca} -X PATCH -H 'Authorization: Bearer {token}' -H 'Content-Type: \
                 application/json' \\\n      -d '{{\"certificateAuthorities\":[]}}' \
                 https://localhost:{port}/beta/directory/certificateAuthorities/\
                 mutualTlsOauthConfigurations/ID",
                ca = self.ca(),
                token = self.world.directory_token,
                port = self.world.ports.directory.port(),
            ),
        );
        let removed = self.anchor_removal().await;
        self.outcome(&removed);
    }

    fn title(&mut self, what: &str, command: &str) {
        self.number += 1;
        println!("{}. {what}\n   $ {command}", self.number);
    }

    fn outcome(&mut self, result: &anyhow::Result<String>) -> bool {
        match result {
            Ok(seen) => println!("   held: {seen}\n"),
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
        // In force when the last one's device is served: anchors and both of its lists are there.
        let last = self.world.domains.last().context("no domain")?;
        eventually(async || match self.connect(&last.devices[0]).await {
            Ok(mut connection) => {
                let answer = connection.token(&last.devices[0].subject_id).await?;
                ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
                Ok(())
            }
            Err(error) => Err(error),
        })
        .await
        .context("the gateway does not serve the new configurations")?;
        Ok(format!("{listed} configurations are in force"))
    }

    async fn tokens(&self, domain: &Domain) -> anyhow::Result<String> {
        let mut seen = Vec::new();
        for device in domain.devices.iter().take(2) {
            // Each domain's lists are fetched on their own.
            let answer = eventually(async || {
                let answer = self.connect(device).await?.token(&device.subject_id).await?;
                ensure!(answer.status == 200, "{}: {} {}", device.name, answer.status, answer.body);
                Ok(answer)
            })
            .await?;
            let token = answer.body["access_token"].as_str().context("no access_token")?;
            let claims = self.check(token).await?;
            let thumbprint = base64::engine::general_purpose::URL_SAFE_NO_PAD
                .encode(device.identity.certificate.fingerprint.0);
            ensure!(
                claims["cnf"]["x5t#S256"] == json!(thumbprint),
                "{}: bound to {}, not to its certificate {thumbprint}",
                device.name,
                claims["cnf"]
            );
            ensure!(
                claims["client_id"] == json!(device.subject_id),
                "{}: client_id is {}",
                device.name,
                claims["client_id"]
            );
            seen.push(format!("`{}`", device.subject_id));
        }
        Ok(format!("{} hold tokens bound to their certificates", seen.join(" and ")))
    }

    /// Checks a token as a resource server does: by the published keys alone.
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
        let (neighbour, doomed) = (&domain.devices[0], &domain.devices[2]);
        let device = self.device(doomed)?;
        // A first connection, so that the device has a session to resume later.
        let mut first = device.connect(self.world.ports.token).await?;
        ensure!(first.token(&doomed.subject_id).await?.status == 200, "not served before");
        let mut open = device.connect(self.world.ports.token).await?;
        let mut beside = self.connect(neighbour).await?;
        ensure!(open.token(&doomed.subject_id).await?.status == 200, "not served before");
        ensure!(beside.token(&neighbour.subject_id).await?.status == 200, "not served before");

        let published = Instant::now();
        self.world.revoke(domain, doomed, 3, SystemTime::now().into())?;
        let took = refused(&mut open, doomed, published).await?;
        let answer = beside.token(&neighbour.subject_id).await?;
        ensure!(answer.status == 200, "the neighbour got {} {}", answer.status, answer.body);

        let mut again = device.connect(self.world.ports.token).await?;
        ensure!(again.resumed, "the session was not resumed: nothing is shown");
        let answer = again.token(&doomed.subject_id).await?;
        ensure!(answer.status == 401, "the resumed session got {}", answer.status);
        Ok(format!(
            "refused on its open connection {:.1} s after the list was published, and on a resumed \
             session; its neighbour goes on",
            took.as_secs_f32()
        ))
    }

    async fn anchor_removal(&self) -> anyhow::Result<String> {
        let domain = self.domain(SubjectField::SanUri)?;
        let (device, other) = (&domain.devices[0], &self.domain(SubjectField::SanIp)?.devices[0]);
        let mut open = self.connect(device).await?;
        let mut beside = self.connect(other).await?;
        ensure!(open.token(&device.subject_id).await?.status == 200, "not served before");
        ensure!(beside.token(&other.subject_id).await?.status == 200, "not served before");

        let all = self.world.authorities(domain);
        let without_root = json!([all[1]]);
        let changed = Instant::now();
        self.replace_authorities(domain, &without_root).await?;
        let gone = refused(&mut open, device, changed).await?;
        let answer = beside.token(&other.subject_id).await?;
        ensure!(answer.status == 200, "another domain's device got {}", answer.status);

        let changed = Instant::now();
        self.replace_authorities(domain, &all).await?;
        eventually(async || {
            let answer = self.connect(device).await?.token(&device.subject_id).await?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
            Ok(())
        })
        .await
        .context("not served again")?;
        Ok(format!(
            "refused {:.1} s after the removal and served {:.1} s after the return",
            gone.as_secs_f32(),
            changed.elapsed().as_secs_f32()
        ))
    }

    async fn replace_authorities(&self, domain: &Domain, list: &Value) -> anyhow::Result<()> {
        let at = self.world.domains.iter().position(|d| d.slug == domain.slug);
        let id = at.and_then(|i| self.configuration_ids.get(i)).context("not created")?;
        self.http
            .patch(self.directory(&format!("/{id}")))
            .bearer_auth(&self.world.directory_token)
            .json(&json!({ "certificateAuthorities": list }))
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    }

    fn domain(&self, field: SubjectField) -> anyhow::Result<&'a Domain> {
        self.world.domains.iter().find(|d| d.field == field).context("no such domain")
    }

    fn device(&self, member: &Member) -> anyhow::Result<Device> {
        let ca = self.world.server_root.certificate_pem();
        Device::new(&ca, &member.identity.chain_pem, &member.identity.key_pem)
    }

    /// A new connection, with a full handshake.
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

/// Asks on one open connection until it is refused; how long that took.
async fn refused(
    open: &mut Connection,
    device: &Member,
    since: Instant,
) -> anyhow::Result<Duration> {
    loop {
        let answer = open.token(&device.subject_id).await.context("the connection was dropped")?;
        if answer.status == 401 {
            ensure!(answer.body["error"] == "invalid_client", "refused with {}", answer.body);
            return Ok(since.elapsed());
        }
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        if since.elapsed() > IN_FORCE {
            bail!("still served on its open connection after {IN_FORCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Tries until it succeeds; the last error after [`IN_FORCE`].
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
