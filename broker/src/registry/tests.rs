use dunlin_sync::{MemoryStore, Store};

use super::*;
use crate::auth::{Credential as Shows, Method, Principal};

/// The store must be held, else it is closed.
fn registry() -> (MemoryStore, Registry) {
    let store = MemoryStore::new().unwrap();
    let registry = Registry::new(store.records());
    (store, registry)
}

fn key(id: &str) -> DeviceKey {
    DeviceKey::new(None, id).unwrap()
}

fn with_certificate(id: &str, digit: &str) -> Device {
    let mut device = Device::new(1);
    device.credentials.push(Credential {
        id: id.to_owned(),
        shown: Shown::fingerprint_from_hex(&digit.repeat(64)).unwrap(),
        not_before: None,
        expires_at: None,
    });
    device
}

#[tokio::test]
async fn a_device_is_made_once_and_the_same_again_is_no_fault() {
    let (_store, registry) = registry();
    let (made, how) = registry.create(&key("a"), Device::new(1)).await.unwrap();
    assert_eq!(how, Imported::Created);
    let (again, how) = registry.create(&key("a"), Device::new(9)).await.unwrap();
    assert_eq!((again, how), (made.clone(), Imported::Unchanged));
    let other = with_certificate("c", "a");
    let refused = registry.create(&key("a"), other).await;
    assert!(
        matches!(refused, Err(RegistryError::Exists { revision }) if revision == made.revision)
    );
}

#[tokio::test]
async fn a_change_is_bound_to_what_was_read() {
    let (_store, registry) = registry();
    let (made, _) = registry.create(&key("a"), Device::new(1)).await.unwrap();
    let block = |device: &mut Device| {
        device.state = State::Blocked;
        Ok(())
    };
    let (blocked, ()) = registry
        .change(&key("a"), Some(made.revision), 2, block)
        .await
        .unwrap();
    assert!(blocked.revision > made.revision && blocked.device.updated_at == 2);
    let late = registry
        .change(&key("a"), Some(made.revision), 3, block)
        .await;
    assert!(
        matches!(late, Err(RegistryError::Changed { revision }) if revision == blocked.revision)
    );
    let (same, ()) = registry.change(&key("a"), None, 3, block).await.unwrap();
    assert_eq!(same, blocked, "nothing was to be changed");
    let late = registry.delete(&key("a"), Some(made.revision)).await;
    assert!(matches!(late, Err(RegistryError::Changed { .. })));
    registry
        .delete(&key("a"), Some(blocked.revision))
        .await
        .unwrap();
    assert!(matches!(
        registry.delete(&key("a"), None).await,
        Err(RegistryError::Missing)
    ));
}

#[tokio::test]
async fn a_certificate_leads_to_one_device_and_to_another_when_that_has_given_it_up() {
    let (_store, registry) = registry();
    let device = with_certificate("c", "a");
    let shown = device.credentials[0].shown.clone();
    registry.create(&key("a"), device.clone()).await.unwrap();
    let found = registry.of_certificate(&shown).await.unwrap().unwrap();
    assert_eq!(found.key, key("a"));
    let taken = registry.create(&key("b"), device.clone()).await;
    assert!(matches!(taken, Err(RegistryError::Taken { id }) if id == "c"));
    let remove = |device: &mut Device| {
        device.credentials.clear();
        Ok(())
    };
    registry.change(&key("a"), None, 2, remove).await.unwrap();
    assert_eq!(registry.of_certificate(&shown).await.unwrap(), None);
    registry.create(&key("b"), device.clone()).await.unwrap();
    assert_eq!(
        registry.of_certificate(&shown).await.unwrap().unwrap().key,
        key("b")
    );
    registry.delete(&key("b"), None).await.unwrap();
    assert_eq!(registry.of_certificate(&shown).await.unwrap(), None);
}

#[tokio::test]
async fn an_index_that_was_left_over_names_nobody_and_is_taken_over() {
    let (_store, registry) = registry();
    let device = with_certificate("c", "b");
    let shown = device.credentials[0].shown.clone();
    registry
        .claim(&key("gone"), &device.credentials)
        .await
        .unwrap();
    assert_eq!(registry.of_certificate(&shown).await.unwrap(), None);
    registry.create(&key("a"), device).await.unwrap();
    assert_eq!(
        registry.of_certificate(&shown).await.unwrap().unwrap().key,
        key("a")
    );
}

#[tokio::test]
async fn an_import_that_is_repeated_changes_nothing() {
    let (_store, registry) = registry();
    let devices: Vec<_> = (0..2_500)
        .map(|n| {
            (
                key(&format!("d{n}")),
                with_certificate("c", "c").with_times_of(&Device::new(n)),
            )
        })
        .map(|(key, mut device)| {
            let digits = format!("{:064x}", device.created_at);
            device.credentials[0].shown = Shown::fingerprint_from_hex(&digits).unwrap();
            (key, device)
        })
        .collect();
    for expected in [Imported::Created, Imported::Unchanged] {
        let done = registry
            .import(devices.clone(), OnExisting::Keep, 1)
            .await
            .unwrap();
        assert!(
            done.len() == devices.len()
                && done
                    .iter()
                    .all(|one| matches!(one, Ok(one) if *one == expected))
        );
    }
    let mut one = devices[7].clone();
    one.1.attributes.insert("site".to_owned(), "b".to_owned());
    let kept = registry
        .import(vec![one.clone()], OnExisting::Keep, 1)
        .await
        .unwrap();
    assert!(matches!(kept[..], [Err(RegistryError::Exists { .. })]));
    let done = registry
        .import(vec![one.clone()], OnExisting::Replace, 1)
        .await
        .unwrap();
    assert!(matches!(done[..], [Ok(Imported::Replaced)]));
    // Somebody else's certificate, a wrong device and a good one.
    let mut stolen = one.clone();
    stolen.0 = key("thief");
    let mut wrong = (key("wrong"), Device::new(1));
    wrong.1.attributes.insert(String::new(), String::new());
    let mixed = vec![stolen, wrong, (key("good"), Device::new(1))];
    let done = registry.import(mixed, OnExisting::Keep, 1).await.unwrap();
    assert!(
        matches!(
            done[..],
            [
                Err(RegistryError::Taken { .. }),
                Err(RegistryError::Invalid(_)),
                Ok(Imported::Created)
            ]
        ),
        "{done:?}"
    );
    let mut seen = 0;
    let mut from = None;
    loop {
        let page = registry.list(from, 1_000).await.unwrap();
        seen += page.devices.len();
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(seen, devices.len() + 1);
}

#[test]
fn whoever_came_with_another_key_of_the_same_id_must_go() {
    let with = |text: &str| {
        let mut device = Device::new(1);
        device.credentials.push(Credential {
            id: "k".to_owned(),
            shown: Shown::Key(text.to_owned()),
            not_before: None,
            expires_at: None,
        });
        Found {
            key: key("a"),
            device,
            revision: 1,
        }
    };
    let mut client = Principal::new(Method::Registry, Some("a".into()));
    client.device = Some("a".into());
    client.credential = Some(Shows::Key {
        id: "k".into(),
        print: with("one").device.credentials[0].print(),
    });
    assert!(renewed(&client, Some(&with("one"))).is_some());
    assert!(renewed(&client, Some(&with("two"))).is_none());
}
