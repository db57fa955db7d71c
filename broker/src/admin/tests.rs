//! The whole of it over HTTP, with a hub and a store in memory.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use dunlin_sync::{MemoryStore, Store};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::auth::Auth;
use crate::config::{AdminFiles, Quotas, TenantConfig};
use crate::http::HttpClient;
use crate::hub::{Backing, HubConfig};
use crate::ops::{Health, Metrics};
use crate::shutdown::Shutdown;

const PATIENCE: Duration = Duration::from_secs(20);

struct Served {
    http: HttpClient,
    writer: String,
    reader: String,
    acme: String,
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    stop: Shutdown,
    _store: Arc<MemoryStore>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let writer = tokens::add(&file, "writer", true, None).unwrap();
    let reader = tokens::add(&file, "reader", false, None).unwrap();
    let acme = tokens::add(&file, "acme", true, Some("acme")).unwrap();
    let tokens = Tokens::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let store = Arc::new(MemoryStore::new().unwrap());
    let quotas = Quotas {
        max_connections: 7,
        ..Quotas::default()
    };
    let tenants = ["acme", "*"].map(|name| TenantConfig {
        name: name.to_owned(),
        quotas,
    });
    let config = HubConfig {
        tenants: tenants.into(),
        ..HubConfig::default()
    };
    let hub = Hub::start(
        config,
        Backing::Own(store.clone()),
        Arc::new(Auth::open()),
        Arc::new(Metrics::default()),
        Arc::new(Health::default()),
    )
    .unwrap();
    let registry = Arc::new(Registry::new(store.records()));
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let stop = Shutdown::default();
    let access = Access::new(AdminFiles { tokens, tls: None });
    let serving = serve(socket, access, hub.clone(), registry.clone(), stop.clone());
    tokio::spawn(serving);
    let http = HttpClient::new(&url, None, PATIENCE, 1 << 20).unwrap();
    Served {
        http,
        writer,
        reader,
        acme,
        registry,
        hub,
        stop,
        _store: store,
    }
}

impl Served {
    async fn ask(
        &self,
        token: &str,
        method: Method,
        path: &str,
        more: &[(HeaderName, &str)],
        body: impl Into<Bytes>,
    ) -> (StatusCode, Value, Option<String>) {
        let mut headers = Vec::new();
        if !token.is_empty() {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            headers.push((AUTHORIZATION, value));
        }
        for (name, value) in more {
            headers.push((name.clone(), HeaderValue::from_str(value).unwrap()));
        }
        let answer = self
            .http
            .send(method, path, &headers, body.into())
            .await
            .unwrap();
        if !answer.status.is_success() {
            assert_eq!(
                answer.headers[CONTENT_TYPE], "application/problem+json",
                "{answer:?}"
            );
        }
        let tag = answer
            .headers
            .get("etag")
            .map(|tag| tag.to_str().unwrap().to_owned());
        (
            answer.status,
            serde_json::from_slice(&answer.body).unwrap_or_default(),
            tag,
        )
    }

    async fn write(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value, Option<String>) {
        let kind = [(CONTENT_TYPE, "application/json")];
        self.ask(&self.writer, method, path, &kind, body.to_string())
            .await
    }
}

#[tokio::test]
async fn what_is_described_is_there_and_nothing_without_a_token() {
    let served = served();
    let (status, description, _) = served
        .ask("", Method::GET, "/v1/openapi.json", &[], "")
        .await;
    assert_eq!(status, StatusCode::OK);
    let described: BTreeSet<_> = description["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let there: BTreeSet<_> = routes().into_iter().map(|(path, _)| path).collect();
    assert_eq!(described, there);
    for (path, methods) in description["paths"].as_object().unwrap() {
        let place = path.replace("{list}", "allow").replace(['{', '}'], "");
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ] {
            let known = methods.get(method.as_str().to_lowercase()).is_some();
            let (status, ..) = served.ask("", method.clone(), &place, &[], "").await;
            let expected = match (known, path.as_str()) {
                (false, _) => StatusCode::METHOD_NOT_ALLOWED,
                (true, "/v1/openapi.json") => StatusCode::OK,
                (true, _) => StatusCode::UNAUTHORIZED,
            };
            assert_eq!(status, expected, "{method} {place}");
            // A token for reading changes nothing, with any method.
            if known && method != Method::GET {
                let (status, ..) = served
                    .ask(&served.reader, method.clone(), &place, &[], "")
                    .await;
                assert_eq!(status, StatusCode::FORBIDDEN, "{method} {place}");
            }
        }
    }
    let (status, ..) = served
        .ask("wrong", Method::GET, "/v1/devices", &[], "")
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, ..) = served
        .ask(&served.reader, Method::GET, "/v2", &[], "")
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_device_is_made_changed_and_removed() {
    let served = served();
    let pair = rcgen::KeyPair::generate().unwrap();
    let device = json!({ "id": "pump-1", "credentials": [{ "public_key": pair.public_key_pem() }], "attributes": { "site": "a" } });
    let (status, made, tag) = served.write(Method::POST, "/v1/devices", &device).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(made["credentials"][0]["algorithm"], "ES256");
    assert_eq!(
        made["credentials"][0]["public_key"]
            .as_str()
            .unwrap()
            .trim(),
        pair.public_key_pem().replace("\r\n", "\n").trim()
    );
    let (status, again, _) = served.write(Method::POST, "/v1/devices", &device).await;
    assert_eq!((status, &again), (StatusCode::OK, &made), "the same again");
    let (status, ..) = served
        .write(Method::POST, "/v1/devices", &json!({ "id": "pump-1" }))
        .await;
    assert_eq!(status, StatusCode::CONFLICT);
    // What was shown can be given back.
    let (status, shown, _) = served
        .ask(&served.reader, Method::GET, "/v1/devices/pump-1", &[], "")
        .await;
    assert_eq!((status, &shown), (StatusCode::OK, &made));
    let (status, ..) = served.write(Method::POST, "/v1/devices", &shown).await;
    assert_eq!(status, StatusCode::OK);

    let patch = json!({ "state": "blocked", "reason": "stolen", "attributes": { "site": null, "owner": "b" } });
    let (status, changed, newer) = served
        .write(Method::PATCH, "/v1/devices/pump-1", &patch)
        .await;
    assert_eq!(
        (status, &changed["state"], &changed["attributes"]),
        (StatusCode::OK, &json!("blocked"), &json!({ "owner": "b" }))
    );
    let old = tag.unwrap();
    let (status, ..) = served
        .ask(
            &served.writer,
            Method::PATCH,
            "/v1/devices/pump-1",
            &[(IF_MATCH, &old)],
            "{}",
        )
        .await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);

    let other = rcgen::KeyPair::generate().unwrap();
    let rotation = json!({ "credential": { "id": "second", "public_key": other.public_key_pem() }, "grace_s": 60 });
    let (_, rotated, _) = served
        .write(Method::POST, "/v1/devices/pump-1/rotate", &rotation)
        .await;
    assert!(
        rotated["credentials"][0]["expires_at"].is_u64()
            && rotated["credentials"][1]["id"] == "second",
        "{rotated}"
    );
    let (status, left, _) = served
        .write(
            Method::DELETE,
            "/v1/devices/pump-1/credentials/second",
            &Value::Null,
        )
        .await;
    assert_eq!(
        (status, left["credentials"].as_array().unwrap().len()),
        (StatusCode::OK, 1)
    );
    let (status, ..) = served
        .write(
            Method::DELETE,
            "/v1/devices/pump-1/credentials/second",
            &Value::Null,
        )
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    let newer = newer.unwrap();
    let (status, ..) = served
        .ask(
            &served.writer,
            Method::DELETE,
            "/v1/devices/pump-1",
            &[(IF_MATCH, &newer)],
            "",
        )
        .await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    let (status, ..) = served
        .ask(
            &served.writer,
            Method::DELETE,
            "/v1/devices/pump-1",
            &[],
            "",
        )
        .await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, ..) = served
        .ask(&served.reader, Method::GET, "/v1/devices/pump-1", &[], "")
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_token_of_a_tenant_reaches_nothing_else() {
    let served = served();
    for device in [
        json!({ "id": "a" }),
        json!({ "id": "a", "tenant": "acme" }),
        json!({ "id": "b", "tenant": "other" }),
    ] {
        let (status, ..) = served.write(Method::POST, "/v1/devices", &device).await;
        assert_eq!(status, StatusCode::CREATED);
    }
    let (_, listed, _) = served
        .ask(&served.acme, Method::GET, "/v1/devices", &[], "")
        .await;
    let listed = listed["devices"].as_array().unwrap();
    assert!(
        listed.len() == 1 && listed[0]["tenant"] == "acme",
        "{listed:?}"
    );
    let (_, shown, _) = served
        .ask(&served.acme, Method::GET, "/v1/devices/a", &[], "")
        .await;
    assert_eq!(shown["tenant"], "acme");
    for (method, path, body) in [
        (Method::GET, "/v1/devices?tenant=", ""),
        (Method::GET, "/v1/devices?tenant=other", ""),
        (Method::GET, "/v1/devices/b?tenant=other", ""),
        (Method::DELETE, "/v1/devices/b?tenant=other", ""),
        (Method::PATCH, "/v1/devices/b?tenant=other", "{}"),
        (
            Method::POST,
            "/v1/devices",
            "{\"id\":\"c\",\"tenant\":\"other\"}",
        ),
        (Method::GET, "/v1/clients?tenant=other", ""),
        (Method::GET, "/v1/clients?tenant=", ""),
        (Method::DELETE, "/v1/clients/x?tenant=other", ""),
        (Method::GET, "/v1/provisioning/allow", ""),
        (Method::PUT, "/v1/provisioning/allow/a", ""),
    ] {
        let (status, body, _) = served
            .ask(&served.acme, method.clone(), path, &[], body)
            .await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} {body}");
    }
    let lines = "{\"id\":\"d\"}\n{\"id\":\"d\",\"tenant\":\"other\"}\n";
    let (_, done, _) = served
        .ask(&served.acme, Method::POST, "/v1/import", &[], lines)
        .await;
    assert_eq!(
        (&done["created"], &done["refused"][0]["line"]),
        (&json!(1), &json!(2)),
        "{done}"
    );
    let key = crate::registry::DeviceKey::new(Some("acme"), "d").unwrap();
    assert!(served.registry.get(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn tenants_are_shown_with_their_bounds_and_what_they_use() {
    let served = served();
    let get = async |token: &str, path: &str| served.ask(token, Method::GET, path, &[], "").await;
    let acme = served.hub.tenants.find("acme").unwrap();
    let other = served.hub.tenants.find("other").unwrap();
    let places = [acme.enter(|| false), other.enter(|| false)];
    acme.published(3, 30, tokio::time::Instant::now());
    other.published(5, 50, tokio::time::Instant::now());

    let (status, listed, _) = get(&served.reader, "/v1/tenants").await;
    assert_eq!(
        (status, &listed["total"]),
        (StatusCode::OK, &json!(2)),
        "{listed}"
    );
    assert_eq!(listed["others"]["max_connections"], 7);
    let [own, none] = [0, 1].map(|index| &listed["tenants"][index]);
    assert_eq!(own["mount"], "$tenant/acme/");
    assert_eq!(
        (
            &own["connections"],
            &own["totals"]["publishes"],
            &own["configured"]
        ),
        (&json!(1), &json!(3), &json!(true))
    );
    assert!(
        none["name"] == "other" && none["configured"] == false && none["totals"].is_null(),
        "{none}"
    );
    for (query, names) in [
        ("limit=1", vec!["acme"]),
        ("limit=1&after=acme", vec!["other"]),
        ("prefix=o", vec!["other"]),
        ("after=other", vec![]),
    ] {
        let (_, page, _) = get(&served.reader, &format!("/v1/tenants?{query}")).await;
        let found = page["tenants"].as_array().unwrap().iter();
        let found: Vec<_> = found.map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(found, names, "{query}");
    }
    let (_, shown, _) = get(&served.reader, "/v1/tenants/acme").await;
    assert_eq!(&shown, own);

    // A token of a tenant sees its own.
    let (_, listed, _) = get(&served.acme, "/v1/tenants").await;
    assert!(listed["total"] == 1 && listed["others"].is_null());
    for (path, expected) in [
        ("/v1/tenants/acme", StatusCode::OK),
        ("/v1/tenants/other", StatusCode::FORBIDDEN),
        ("/v1/tenants/nobody", StatusCode::FORBIDDEN),
    ] {
        assert_eq!(get(&served.acme, path).await.0, expected, "{path}");
    }
    for (path, expected) in [
        ("/v1/tenants/nobody", StatusCode::NOT_FOUND),
        ("/v1/tenants/a+b", StatusCode::BAD_REQUEST),
        ("/v1/tenants?tenant=acme", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(get(&served.reader, path).await.0, expected, "{path}");
    }
    // To ask for one does not make it.
    assert!(served.hub.tenants.known("nobody").is_none());
    drop(places);
    let (_, shown, _) = get(&served.reader, "/v1/tenants/acme").await;
    assert_eq!(shown["connections"], 0);
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_field() {
    let served = served();
    for (path, body, field) in [
        ("/v1/devices", "{", "body"),
        ("/v1/devices", "{\"id\":\"a\",\"name\":1}", "body"),
        ("/v1/devices", "{\"id\":\"a/b\"}", "id"),
        (
            "/v1/devices",
            "{\"id\":\"a\",\"credentials\":[{}]}",
            "credentials[0]",
        ),
        (
            "/v1/devices",
            "{\"id\":\"a\",\"credentials\":[{\"public_key\":\"x\"}]}",
            "credentials[0].public_key",
        ),
        (
            "/v1/devices",
            "{\"id\":\"a\",\"attributes\":{\"\":\"\"}}",
            "attributes",
        ),
        ("/v1/devices?x=1", "{}", "x"),
        ("/v1/import?existing=all", "", "existing"),
        ("/v1/provisioning/allow", "a b", "line 1"),
    ] {
        let (status, problem, _) = served
            .ask(&served.writer, Method::POST, path, &[], body)
            .await;
        assert_eq!(
            (status, &problem["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{problem}"
        );
    }
    let kind = [(CONTENT_TYPE, "text/csv")];
    let (status, ..) = served
        .ask(&served.writer, Method::POST, "/v1/devices", &kind, "{}")
        .await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let (status, ..) = served
        .ask(
            &served.writer,
            Method::POST,
            "/v1/devices",
            &[],
            vec![b' '; request::BODY_MAX + 1],
        )
        .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn an_import_takes_what_is_good_and_names_what_is_not() {
    let served = served();
    let mut lines = String::new();
    for n in 0..1_500 {
        lines.push_str(&format!(
            "{{\"id\":\"d{n}\",\"attributes\":{{\"n\":\"{}\"}}}}\n",
            n % 3
        ));
    }
    lines.push_str("nonsense\n{\"id\":\"d7\"}\n\n{\"id\":\"a b\"}\n");
    for (created, unchanged) in [(1_500, 0), (0, 1_500)] {
        let (status, done, _) = served
            .ask(
                &served.writer,
                Method::POST,
                "/v1/import",
                &[],
                lines.clone(),
            )
            .await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            (&done["created"], &done["unchanged"]),
            (&json!(created), &json!(unchanged))
        );
        let refused: Vec<_> = done["refused"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["line"].as_u64().unwrap())
            .collect();
        assert_eq!(refused, [1_501, 1_502, 1_504]);
    }
    let mut found = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/devices?limit=400&attribute=n%3D1{cursor}");
        let (_, page, _) = served
            .ask(&served.reader, Method::GET, &path, &[], "")
            .await;
        for device in page["devices"].as_array().unwrap() {
            assert!(found.insert(device["id"].as_str().unwrap().to_owned()));
        }
        let Some(next) = page["next"].as_str() else {
            break;
        };
        let next: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
        cursor = format!("&cursor={next}");
    }
    assert_eq!(found.len(), 500);
}

#[tokio::test]
async fn serial_numbers_are_put_on_lists_and_taken_off() {
    let served = served();
    let (_, added, _) = served
        .ask(
            &served.writer,
            Method::POST,
            "/v1/provisioning/allow",
            &[],
            "a1\na2\n\na3\n",
        )
        .await;
    assert_eq!(added["added"], 3);
    let (_, listed, _) = served
        .ask(
            &served.reader,
            Method::GET,
            "/v1/provisioning/allow",
            &[],
            "",
        )
        .await;
    assert_eq!(listed["serials"].as_array().unwrap().len(), 3);
    for (method, status) in [
        (Method::DELETE, 204),
        (Method::DELETE, 404),
        (Method::GET, 404),
        (Method::PUT, 204),
        (Method::GET, 200),
    ] {
        let (found, ..) = served
            .ask(
                &served.writer,
                method.clone(),
                "/v1/provisioning/allow/a2",
                &[],
                "",
            )
            .await;
        assert_eq!(found.as_u16(), status, "{method}");
    }
    let (status, ..) = served
        .ask(
            &served.writer,
            Method::PUT,
            "/v1/provisioning/serials/a2",
            &[],
            "",
        )
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}
