//! Device templates and devices.

use anchorgate::directory::Config;
use anchorgate::directory::auth::StaticToken;
use anchorgate::directory::permissions::Permission;
use anchorgate::x509::certificate::Fingerprint;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::directory::{D, M, Server, T, answer, device, template, template_body};

const ABSENT: &str = "00000000-0000-4000-8000-000000000000";
const ANNOTATION: &str = "@anchorgate.mutualTlsOauthConfigurationId";

#[tokio::test]
async fn a_template_follows_the_documented_life_cycle() {
    let server = Server::start().await;
    let configuration = server.configuration("fleet", json!([])).await;
    let response =
        server.ask(Method::POST, T).json(&template_body(Some(&configuration))).send().await;
    let response = response.expect("an answer");
    assert_eq!(response.status(), 201);
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    let made: Value = response.json().await.expect("JSON");
    let id = made["id"].as_str().expect("an id");
    assert_eq!(location, format!("{}{T}/{id}", server.url));
    let context =
        format!("{}/beta/$metadata#directory/templates/deviceTemplates/$entity", server.url);
    assert_eq!(made["@odata.context"], json!(context));
    assert_eq!(made["mutualTlsOauthConfigurationId"], json!(configuration));
    assert_eq!((&made["deletedDateTime"], &made["model"]), (&Value::Null, &json!("Camera")));
    assert!(made.get("owner").is_none());

    let path = format!("{}/{id}", T.replace("/directory", ""));
    assert_eq!(server.get(&path).await.1["deviceAuthority"], "ADT");
    let (status, error) = server.patch(&path, &json!({"model": "other"})).await;
    assert_eq!((status, &error["error"]["code"]), (405, &json!("Request_BadRequest")));
    let other = template(&server, None).await;
    for (filter, found) in [
        (format!("id eq '{id}'"), 1),
        (format!("id in ('{id}','{other}','{ABSENT}')"), 2),
        ("operatingSystem eq 'linux'".into(), 2),
        ("operatingSystem in ('Windows','RTOS')".into(), 0),
    ] {
        let (status, list) = server.get(&format!("{T}?$filter={filter}&$select=id")).await;
        assert_eq!(
            (status, list["value"].as_array().map(Vec::len)),
            (200, Some(found)),
            "{filter}"
        );
    }
    assert_eq!(server.get(&format!("{T}?$filter=displayName eq 'x'")).await.0, 400);
    let count = server.ask(Method::GET, &format!("{T}/$count")).send().await.expect("an answer");
    assert_eq!(count.text().await.expect("text"), "2");

    // Objects in use are not deleted: a configuration with a template, a template with a device.
    let (status, error) = answer(server.ask(Method::DELETE, &format!("{M}/{configuration}"))).await;
    assert_eq!((status, &error["error"]["code"]), (400, &json!("Request_BadRequest")));
    assert!(error["error"]["message"].as_str().is_some_and(|message| message.contains(id)));
    let device = device(&server, id, "urn:device:1").await;
    assert_eq!(server.delete(&path).await, 400);
    assert_eq!(server.delete(&format!("{D}/{device}")).await, 204);
    assert_eq!(server.delete(&path).await, 204);
    assert_eq!(server.delete(&path).await, 404);
    assert_eq!(server.delete(&format!("{M}/{configuration}")).await, 204);
}

#[tokio::test]
async fn a_template_names_an_existing_or_a_foreign_configuration() {
    let server = Server::start().await;
    let (status, error) = server.post(T, &template_body(Some(ABSENT))).await;
    assert_eq!(status, 400, "{error}");
    assert_eq!(error["error"]["details"][0]["target"], "mutualTlsOauthConfigurationId");
    let mut foreign = template_body(Some(ABSENT));
    foreign["mutualTlsOauthConfigurationTenantId"] = ABSENT.into();
    let (status, made) = server.post(T, &foreign).await;
    assert_eq!(status, 201, "{made}");
    // A local configuration counts as a reference even if the tenant is given.
    let configuration = server.configuration("fleet", json!([])).await;
    foreign["mutualTlsOauthConfigurationId"] = json!(configuration);
    assert_eq!(server.post(T, &foreign).await.0, 201);
    assert_eq!(server.delete(&format!("{M}/{configuration}")).await, 400);
    assert_eq!(server.get(T).await.1["value"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_device_follows_the_documented_life_cycle() {
    let server = Server::start().await;
    let configuration = server.configuration("fleet", json!([])).await;
    let template = template(&server, Some(&configuration)).await;
    let create = format!("{T}/{template}/createDeviceFromTemplate");
    let name = "2fa9424e-7ab0-4a22-8c90-2a20d15d8183";
    let asset = "/subscriptions/1/resourcegroups/g/providers/microsoft.deviceregistry/assets/a";
    let body = json!({
        "externalDeviceId": name, "operatingSystemVersion": "Ubuntu 18.04",
        "externalSourceName": "unknown", "accountEnabled": false, "alternativeNames": [asset],
    });
    let (status, made) = server.post(&create, &body).await;
    assert_eq!(status, 200, "{made}");
    let id = made["id"].as_str().expect("an id").to_owned();
    for (property, value) in [
        ("accountEnabled", json!(false)),
        ("alternativeNames", json!([asset])),
        ("displayName", json!(name)),
        ("externalSourceName", json!("unknown")),
        ("manufacturer", json!("Acme")),
        ("model", json!("Camera")),
        ("operatingSystem", json!("Linux")),
        ("operatingSystemVersion", json!("Ubuntu 18.04")),
        ("physicalIds", json!([format!("[EXTID]:{name}")])),
        ("profileType", json!("IoT")),
        ("sourceType", json!("External")),
        (ANNOTATION, json!(configuration)),
        ("@odata.context", json!(format!("{}/beta/$metadata#devices/$entity", server.url))),
    ] {
        assert_eq!(made[property], value, "{property}");
    }
    assert_eq!(made["alternativeSecurityIds"][0]["type"], 2);
    assert_eq!(made["alternativeSecurityIds"][0]["identityProvider"], Value::Null);

    let path = format!("{D}/{id}");
    let read = server.get(&path).await.1;
    assert_eq!(read["alternativeSecurityIds"], made["alternativeSecurityIds"]);
    let by_key = format!("{D}(deviceId='{}')", read["deviceId"].as_str().expect("an id"));
    assert_eq!(server.get(&by_key).await.1["id"], json!(id));

    // Read, change and write back the whole object; then one member only.
    let mut changed = read.clone();
    changed["accountEnabled"] = true.into();
    assert_eq!(server.patch(&path, &changed).await, (204, Value::Null));
    assert_eq!(server.get(&path).await.1["accountEnabled"], true);
    assert_eq!(server.patch(&by_key, &json!({"accountEnabled": false})).await.0, 204);
    assert_eq!(server.get(&path).await.1["accountEnabled"], false);
    let (status, error) = server.patch(&path, &json!({"displayName": "other"})).await;
    assert_eq!((status, &error["error"]["details"][0]["target"]), (400, &json!("displayName")));
    let stale = read["@odata.etag"].as_str().expect("a tag");
    let late = server.ask(Method::PATCH, &path).header("if-match", stale);
    assert_eq!(answer(late.json(&json!({"accountEnabled": true}))).await.0, 412);

    // A device's name is unique in the whole directory until the device is deleted.
    let (status, error) = server.post(&create, &body).await;
    assert_eq!((status, &error["error"]["code"]), (400, &json!("Request_BadRequest")));
    let message = error["error"]["message"].as_str().expect("text");
    assert!(message.contains("externalDeviceId already exists"), "{message}");
    assert_eq!(server.get(&path).await.1["accountEnabled"], false);
    assert_eq!(server.delete(&by_key).await, 204);
    assert_eq!(server.get(&path).await.0, 404);
    assert_eq!(server.post(&create, &body).await.1["id"], json!(id));

    let (status, error) = server.post(D, &json!({"displayName": "x"})).await;
    assert_eq!(status, 400);
    let message = error["error"]["message"].as_str().expect("text");
    assert!(message.contains("createDeviceFromTemplate"), "{message}");
    let absent = format!("{T}/{ABSENT}/createDeviceFromTemplate");
    assert_eq!(server.post(&absent, &json!({"externalDeviceId": "x"})).await.0, 404);
}

#[tokio::test]
async fn devices_are_listed_filtered_and_counted() {
    let server = Server::start().await;
    let (one, other) = (template(&server, None).await, template(&server, None).await);
    let mut ids = Vec::new();
    for n in 0..7 {
        let of = if n % 2 == 0 { &one } else { &other };
        ids.push(device(&server, of, &format!("urn:device:{n}")).await);
    }
    assert_eq!(
        server.patch(&format!("{D}/{}", ids[3]), &json!({"accountEnabled": false})).await.0,
        204
    );
    let whole = server.get(&format!("{D}/{}", ids[3])).await.1;
    let device_id = whole["deviceId"].as_str().expect("an id");
    let found = async |query: &str| {
        let (status, list) = server.get(&format!("{D}?{query}")).await;
        let list = list["value"].as_array().cloned().unwrap_or_default();
        (
            status,
            list.into_iter()
                .map(|d| d["id"].as_str().expect("an id").to_owned())
                .collect::<Vec<_>>(),
        )
    };
    let third = (200, vec![ids[3].clone()]);
    assert_eq!(found("$filter=displayName eq 'urn:device:3'").await, third);
    assert_eq!(found(&format!("$filter=deviceId eq '{device_id}'")).await, third);
    assert_eq!(found(&format!("$filter=id eq '{}'", ids[3].to_uppercase())).await, third);
    assert_eq!(found("$filter=accountEnabled eq false").await, third);
    assert_eq!(found("$filter=displayName eq 'URN:device:3'").await, (200, vec![]));
    let mut two = vec![ids[3].clone(), ids[5].clone()];
    two.sort();
    let either =
        "$filter=displayName in ('urn:device:5','urn:device:9') or accountEnabled eq false";
    assert_eq!(found(either).await, (200, two.clone()));
    assert_eq!(
        found("$filter=displayName in ('urn:device:5','urn:device:3')").await,
        (200, two.clone())
    );
    assert_eq!(found("$filter=operatingSystem eq 'RTOS'").await, (200, vec![]));
    for bad in ["$filter=model eq 'Camera'", "$filter=accountEnabled eq maybe", "$orderby=id"] {
        assert_eq!(found(bad).await.0, 400, "{bad}");
    }
    // Results of a search by name are paged like any others.
    let (_, list) = server
        .get(&format!("{D}?$top=1&$filter=displayName in ('urn:device:5','urn:device:3')"))
        .await;
    let next = list["@odata.nextLink"].as_str().expect("a link").trim_start_matches(&server.url);
    let (_, last) = server.get(next).await;
    assert_eq!(
        (&list["value"][0]["id"], &last["value"][0]["id"]),
        (&json!(two[0]), &json!(two[1]))
    );
    assert!(last.get("@odata.nextLink").is_none());

    let (_, list) = server.get(&format!("{D}?$select=accountEnabled&$top=2&$count=true")).await;
    assert_eq!(list["@odata.count"], 7);
    let first = list["value"][0].as_object().expect("an object");
    let names: Vec<_> = first.keys().collect();
    assert_eq!(names, [ANNOTATION, "@odata.etag", "accountEnabled"]);
    let count = async |path: &str| {
        let response = server.ask(Method::GET, path).send().await.expect("an answer");
        response.text().await.expect("text")
    };
    assert_eq!(count(&format!("{D}/$count")).await, "7");
    assert_eq!(count(&format!("{D}/$count?$filter=accountEnabled eq true")).await, "6");

    let instances = format!("{T}/{other}/deviceInstances");
    assert_eq!(count(&format!("{instances}/$count")).await, "3");
    let (mut seen, mut next) = (Vec::new(), format!("{instances}?$top=2&$select=id"));
    loop {
        let (status, page) = server.get(&next).await;
        assert_eq!(status, 200, "{page}");
        let list = page["value"].as_array().expect("a list");
        seen.extend(list.iter().map(|d| d["id"].as_str().expect("an id").to_owned()));
        match page["@odata.nextLink"].as_str() {
            Some(link) => next = link.trim_start_matches(&server.url).to_owned(),
            None => break,
        }
    }
    let mut wanted = vec![ids[1].clone(), ids[3].clone(), ids[5].clone()];
    wanted.sort();
    assert_eq!(seen, wanted);
    assert_eq!(
        server.get(&format!("{instances}/{}", ids[1])).await.1["displayName"],
        "urn:device:1"
    );
    let by_key = format!("{instances}(deviceId='{device_id}')");
    assert_eq!(server.get(&by_key).await.1["displayName"], "urn:device:3");
    assert_eq!(server.get(&format!("{instances}/{}", ids[0])).await.0, 404, "of another template");
    assert_eq!(server.get(&format!("{T}/{ABSENT}/deviceInstances")).await.0, 404);
}

/// A search is bounded; later pages have the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_bounded_and_continues_on_the_next_page() {
    const DEVICES: usize = 2_100;
    let server = std::sync::Arc::new(Server::start().await);
    let template = template(&server, None).await;
    let mut makers = tokio::task::JoinSet::new();
    for maker in 0..30 {
        let (server, template) = (server.clone(), template.clone());
        makers.spawn(async move {
            for n in (maker..DEVICES).step_by(30) {
                device(&server, &template, &format!("urn:device:{n}")).await;
            }
        });
    }
    makers.join_all().await;
    let (_, list) = server.get(&format!("{D}?$filter=displayName eq 'urn:device:7'")).await;
    let id = list["value"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(server.patch(&format!("{D}/{id}"), &json!({"accountEnabled": false})).await.0, 204);
    let search = format!("{D}?$filter=accountEnabled eq false");
    let (status, refused) = server.get(&format!("{search}&$count=true")).await;
    assert_eq!(status, 400, "a count that scans more than a page is refused: {refused}");
    let mut found = Vec::new();
    let (mut pages, mut next) = (0, search);
    loop {
        let (status, page) = server.get(&next).await;
        assert_eq!(status, 200, "{page}");
        pages += 1;
        found.extend(page["value"].as_array().expect("a list").iter().map(|d| d["id"].clone()));
        match page["@odata.nextLink"].as_str() {
            Some(link) => next = link.trim_start_matches(&server.url).to_owned(),
            None => break,
        }
    }
    assert_eq!((json!(found), pages), (json!([id]), 2));
}

#[tokio::test]
async fn owners_are_empty_and_cannot_be_added() {
    let server = Server::start().await;
    let owners = format!("{T}/{}/owners", template(&server, None).await);
    assert_eq!(server.get(&owners).await.1["value"], json!([]));
    let user = json!({"@odata.id": "https://graph.microsoft.com/beta/users/x"});
    let (status, error) = server.post(&format!("{owners}/$ref"), &user).await;
    assert_eq!((status, &error["error"]["code"]), (400, &json!("Request_BadRequest")));
    assert_eq!(server.get(&format!("{T}/{ABSENT}/owners")).await.0, 404);
}

#[tokio::test]
async fn bad_bodies_store_nothing() {
    let server = Server::start().await;
    let template = template(&server, None).await;
    let create = format!("{T}/{template}/createDeviceFromTemplate");
    let id = device(&server, &template, "urn:device:1").await;
    let path = format!("{D}/{id}");
    let before = (server.get(T).await.1, server.get(D).await.1);
    let deep = format!("{{\"externalDeviceId\":{}1{}}}", "[".repeat(60), "]".repeat(60));
    let long = format!("{{\"externalDeviceId\":\"{}\"}}", "x".repeat(2 * 1024 * 1024));
    for (body, status) in [
        ("", 400),
        ("null", 400),
        ("[]", 400),
        ("{", 400),
        ("{}", 400),
        (&deep, 400),
        (&long, 413),
        (r#"{"externalDeviceId":null}"#, 400),
        (r#"{"externalDeviceId":7}"#, 400),
        (r#"{"externalDeviceId":"a\u0000b"}"#, 400),
        (r#"{"externalDeviceId":"x","accountEnabled":"yes"}"#, 400),
        (r#"{"externalDeviceId":"x","alternativeNames":{}}"#, 400),
        (r#"{"externalDeviceId":"x","keyCredential":{"key":"AA=="}}"#, 400),
        (r#"{"externalDeviceId":"x","surname":"y"}"#, 400),
        (r#"{"deviceAuthority":"a","manufacturer":"b"}"#, 400),
        (r#"{"deviceAuthority":"a","manufacturer":"b","model":["c"]}"#, 400),
        (r#"{"accountEnabled":0}"#, 400),
        (r#"{"accountEnabled":null}"#, 400),
        (r#"{"accountEnabled":false,"id":"other"}"#, 400),
        (r#"{"accountEnabled":false,"model":"other"}"#, 400),
    ] {
        for (method, path) in [(Method::POST, T), (Method::POST, &*create), (Method::PATCH, &*path)]
        {
            // A PATCH with no members, or with null under an unknown name, changes nothing.
            if method == Method::PATCH && matches!(body, "{}" | r#"{"externalDeviceId":null}"#) {
                continue;
            }
            let request = server.ask(method, path).header("content-type", "application/json");
            let (got, error) = answer(request.body(body.to_owned())).await;
            assert_eq!(got, status, "{path} {body:.60}");
            assert!(error["error"]["message"].is_string());
        }
    }
    assert_eq!((server.get(T).await.1, server.get(D).await.1), before);
}

#[tokio::test]
async fn permissions_are_enforced() {
    use Permission::*;
    let token = |name: &str, permissions: &[Permission]| StaticToken {
        name: name.into(),
        sha256: Fingerprint::of(name.as_bytes()).0,
        permissions: permissions.to_vec(),
    };
    let mut config: Config = crate::support::directory::config();
    config.tokens.extend([
        token("reads devices", &[DeviceRead]),
        token("reads templates", &[TemplateRead]),
        token("reads all", &[DirectoryRead]),
        token("writes devices", &[DeviceReadWrite]),
        token("writes templates", &[TemplateReadWrite]),
        token("provisions", &[TemplateCreate, DeviceCreateFromOwnedTemplate]),
        token("reads trust", &[MutualTlsReadWrite, ApplicationReadWrite]),
    ]);
    let server = Server::with(config).await;
    let theirs = template(&server, None).await;
    let device = device(&server, &theirs, "urn:device:0").await;
    let own = server.client.post(format!("{}{T}", server.url)).bearer_auth("provisions");
    let (status, own) = answer(own.json(&template_body(None))).await;
    assert_eq!(status, 201, "{own}");
    let own = own["id"].as_str().expect("an id");
    let create = |template: &str| format!("{T}/{template}/createDeviceFromTemplate");
    let (device, theirs_path) = (format!("{D}/{device}"), format!("{T}/{theirs}"));
    let (theirs, own) = (create(&theirs), create(own));
    let delta = format!("{D}/delta");
    let template = template_body(None);
    let enable = json!({"accountEnabled": true});
    let nothing = Value::Null;
    let get = Method::GET;
    for (n, (method, path, body, allowed)) in [
        (&get, D, &nothing, &["reads devices", "reads all", "writes devices"][..]),
        (&get, &delta, &nothing, &["reads devices", "reads all", "writes devices"]),
        (&get, &device, &nothing, &["reads devices", "reads all", "writes devices"]),
        (&get, T, &nothing, &["reads templates", "reads all", "writes templates"]),
        (&get, &theirs_path, &nothing, &["reads templates", "reads all", "writes templates"]),
        (&Method::POST, T, &template, &["writes templates", "provisions"]),
        (&Method::POST, &theirs, &nothing, &["writes devices"]),
        (&Method::POST, &own, &nothing, &["writes devices", "provisions"]),
        (&Method::PATCH, &device, &enable, &["writes devices"]),
        (&Method::DELETE, &theirs_path, &nothing, &["writes templates"]),
    ]
    .into_iter()
    .enumerate()
    {
        for name in [
            "reads devices",
            "reads templates",
            "reads all",
            "writes devices",
            "writes templates",
            "provisions",
            "reads trust",
        ] {
            let body = match body {
                Value::Null => json!({"externalDeviceId": format!("{n} {name}")}),
                body => body.clone(),
            };
            let url = format!("{}{path}", server.url);
            let request = server.client.request(method.clone(), url).bearer_auth(name).json(&body);
            let (status, error) = answer(request).await;
            let denied = error["error"]["code"] == "Authorization_RequestDenied";
            assert_eq!(
                (status == 403, denied),
                (!allowed.contains(&name), !allowed.contains(&name)),
                "{name}: {method} {path}: {status} {error}"
            );
        }
    }
    let anonymous =
        server.client.get(format!("{}{delta}", server.url)).send().await.expect("an answer");
    assert_eq!(anonymous.status(), 401);
    assert!(anonymous.headers().contains_key("www-authenticate"));
}
