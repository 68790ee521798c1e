use super::*;
use crate::trust::configurations::{Configuration, Device, Devices};
use crate::trust::subject::{SubjectField, SubjectId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const MANY: usize = 1_000_000;

fn is(object: &str, device: &str, enabled: bool, known_to: KnownTo) -> Change {
    let device = Some(Some(DeviceKey::of(device)));
    let state = NewState::Is { device, enabled: Some(enabled), known_to: Some(known_to) };
    Change { object: ObjectKey::of(object), state }
}

fn removed(object: &str) -> Change {
    Change { object: ObjectKey::of(object), state: NewState::Removed }
}

fn registry(changes: &[Change]) -> DeviceRegistry {
    DeviceRegistry::default().changed(changes, MANY).expect("within the limits").0
}

fn standing(registry: &DeviceRegistry, device: &str, configuration: &str) -> Standing {
    registry.standing(DeviceKey::of(device), &configuration.into())
}

/// A plain model of a registry: by object, the device, whether it is enabled, and its configuration.
type Model = BTreeMap<u8, (u8, bool, KnownTo)>;

fn model_standing(model: &Model, device: u8, configuration: &str) -> Standing {
    let known = model.values().filter(|(d, _, known_to)| {
        *d == device
            && match known_to {
                KnownTo::None => false,
                KnownTo::All => true,
                KnownTo::Only(id) => id.as_str() == configuration,
            }
    });
    let enabled: BTreeSet<bool> = known.map(|(_, enabled, _)| *enabled).collect();
    match (enabled.contains(&false), enabled.contains(&true)) {
        (true, _) => Standing::Disabled,
        (false, true) => Standing::Enabled,
        (false, false) => Standing::Unknown,
    }
}

fn known_to() -> impl Strategy<Value = KnownTo> {
    prop_oneof![
        Just(KnownTo::None),
        Just(KnownTo::All),
        Just(KnownTo::Only("a".into())),
        Just(KnownTo::Only("b".into())),
    ]
}

/// A change of one object, in terms of the model.
#[derive(Debug, Clone)]
enum ModelChange {
    Removed,
    Is(Option<Option<u8>>, Option<bool>, Option<KnownTo>),
}

fn model_change() -> impl Strategy<Value = (u8, ModelChange)> {
    let device = prop::option::weighted(0.7, prop::option::weighted(0.9, 0u8..8));
    let is = (device, prop::option::of(any::<bool>()), prop::option::of(known_to()));
    let change = prop_oneof![
        1 => Just(ModelChange::Removed),
        3 => is.prop_map(|(device, enabled, known_to)| ModelChange::Is(device, enabled, known_to)),
    ];
    (0u8..12, change)
}

fn apply(model: &mut Model, object: u8, change: &ModelChange) {
    let before = model.remove(&object);
    if let ModelChange::Is(device, enabled, known_to) = change {
        let was = before.clone().map(|(device, ..)| device);
        if let Some(device) = device.unwrap_or(was) {
            let enabled = enabled.or(before.clone().map(|(_, e, _)| e)).unwrap_or(false);
            let known_to = known_to.clone().or(before.map(|(.., k)| k)).unwrap_or(KnownTo::All);
            model.insert(object, (device, enabled, known_to));
        }
    }
}

fn change((object, change): &(u8, ModelChange)) -> Change {
    let state = match change {
        ModelChange::Removed => NewState::Removed,
        ModelChange::Is(device, enabled, known_to) => NewState::Is {
            device: device.map(|device| device.map(|d| DeviceKey::of(&d.to_string()))),
            enabled: *enabled,
            known_to: known_to.clone(),
        },
    };
    Change { object: ObjectKey::of(&object.to_string()), state }
}

fn devices(model: &Model) -> BTreeSet<u8> {
    model.values().map(|(device, ..)| *device).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn agrees_with_a_plain_model(
        pages in prop::collection::vec(prop::collection::vec(model_change(), 0..10), 0..8)
    ) {
        let (mut registry, mut model) = (DeviceRegistry::default(), Model::new());
        for page in pages {
            let before = (registry.clone(), model.clone());
            page.iter().for_each(|(object, change)| apply(&mut model, *object, change));
            let changes: Vec<_> = page.iter().map(change).collect();
            registry = registry.changed(&changes, MANY).expect("within the limits").0;
            for device in 0..8u8 {
                for configuration in ["a", "b", "c"] {
                    prop_assert_eq!(
                        standing(&registry, &device.to_string(), configuration),
                        model_standing(&model, device, configuration)
                    );
                }
            }
            let counts = registry.counts();
            prop_assert_eq!(counts.devices, model.len());
            prop_assert_eq!(counts.disabled, model.values().filter(|d| !d.1).count());
            prop_assert_eq!(counts.duplicates, model.len() - devices(&model).len());
            let difference = before.0.difference(&registry);
            let (was, is) = (devices(&before.1), devices(&model));
            prop_assert_eq!(difference.before, before.1.len());
            prop_assert_eq!(difference.added, is.difference(&was).count());
            prop_assert_eq!(difference.removed, was.difference(&is).count());

            let mut bytes = Vec::new();
            registry.write(&mut bytes);
            let read = DeviceRegistry::read(&bytes, MANY).expect("what was written");
            prop_assert!(registry.difference(&read).is_empty());
            prop_assert!(read.difference(&registry).is_empty());
            prop_assert_eq!(read.counts(), counts);
            for cut in 0..bytes.len() {
                prop_assert!(DeviceRegistry::read(&bytes[..cut], MANY).is_err());
            }
        }
    }

    #[test]
    fn does_not_panic_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = DeviceRegistry::read(&bytes, 4);
    }
}

#[test]
fn a_device_is_registered_for_the_configuration_of_its_template() {
    let registry = registry(&[
        is("1", "any", true, KnownTo::All),
        is("2", "one", true, KnownTo::Only("a".into())),
        is("3", "none", true, KnownTo::None),
    ]);
    for (device, in_a, in_b) in [
        ("any", Standing::Enabled, Standing::Enabled),
        ("one", Standing::Enabled, Standing::Unknown),
        ("none", Standing::Unknown, Standing::Unknown),
        ("other", Standing::Unknown, Standing::Unknown),
    ] {
        assert_eq!(standing(&registry, device, "a"), in_a, "{device}");
        assert_eq!(standing(&registry, device, "b"), in_b, "{device}");
    }
}

#[test]
fn a_disabled_object_takes_precedence_over_an_enabled_one() {
    let registry = registry(&[
        is("1", "d", true, KnownTo::All),
        is("2", "d", false, KnownTo::Only("a".into())),
    ]);
    assert_eq!(standing(&registry, "d", "a"), Standing::Disabled);
    assert_eq!(standing(&registry, "d", "b"), Standing::Enabled, "the other is not for it");
    assert_eq!(registry.counts(), Counts { devices: 2, disabled: 1, duplicates: 1 });
    let (alone, _) = registry.changed(&[removed("2")], MANY).expect("within the limits");
    assert_eq!(standing(&alone, "d", "a"), Standing::Enabled);
}

#[test]
fn a_device_without_account_enabled_is_disabled() {
    let device = Some(Some(DeviceKey::of("d")));
    let state = NewState::Is { device, enabled: None, known_to: None };
    let registry = registry(&[Change { object: ObjectKey::of("1"), state }]);
    assert_eq!(standing(&registry, "d", "a"), Standing::Disabled);
}

#[test]
fn errors_name_the_limit() {
    let two = [is("1", "a", true, KnownTo::All), is("2", "b", true, KnownTo::All)];
    let error = DeviceRegistry::default().changed(&two, 1).expect_err("too many");
    assert_eq!(error.to_string(), "2 devices; at most 1 are kept");
    assert!(DeviceRegistry::default().changed(&two, 2).is_ok());
    let mut bytes = Vec::new();
    registry(&two).write(&mut bytes);
    assert_eq!(DeviceRegistry::read(&bytes, 1).expect_err("too many"), error);

    let named =
        |n: usize| is(&n.to_string(), "d", true, KnownTo::Only(n.to_string().as_str().into()));
    let mut names: Vec<_> = (0..MAX_CONFIGURATIONS).map(named).collect();
    assert!(DeviceRegistry::default().changed(&names, MANY).is_ok());
    names.push(named(MAX_CONFIGURATIONS));
    let error = DeviceRegistry::default().changed(&names, MANY).expect_err("too many");
    assert_eq!(error, RegistryError::TooManyConfigurations);
}

#[test]
fn refusals_name_the_device_the_configuration_and_the_source() {
    let configuration = |devices| Configuration {
        id: "a".into(),
        domain: Arc::default(),
        display_name: String::new(),
        kind: Device { subject_field: SubjectField::SanDns, devices },
        authorities: Vec::new(),
    };
    let registered = configuration(Devices::Registered("hub".into()));
    let subject = |text: &str| SubjectId::parse(SubjectField::SanDns, text).expect("a subject");
    let mut registries = Registries::default();
    let admit = |registries: &Registries, text: &str| {
        registries.admit(&registered, &subject(text)).map_err(|refusal| refusal.to_string())
    };
    assert!(registries.admit(&configuration(Devices::Any), &subject("x.example")).is_ok());
    assert_eq!(
        admit(&registries, "d.example").expect_err("never loaded"),
        "device_unknown: `d.example` of configuration a: the device registry of `hub` was never \
         loaded"
    );
    let devices = registry(&[
        is("1", "d.example", true, KnownTo::All),
        is("2", "e.example", false, KnownTo::All),
    ]);
    assert!(registries.set("other".into(), Registry::InForce(devices.clone())));
    assert!(admit(&registries, "d.example").is_err(), "another directory's device");
    assert!(registries.set("hub".into(), Registry::InForce(devices.clone())));
    assert!(!registries.set("hub".into(), Registry::InForce(devices)), "the same again");
    assert_eq!(admit(&registries, "d.example"), Ok(()));
    assert_eq!(
        admit(&registries, "e.example").expect_err("disabled"),
        "device_disabled: `e.example` of configuration a: disabled in the device registry of `hub`"
    );
    assert_eq!(
        admit(&registries, "f.example").expect_err("unknown"),
        "device_unknown: `f.example` of configuration a: not in the device registry of `hub`"
    );
    assert!(registries.set("hub".into(), Registry::Withdrawn("too old".into())));
    assert!(admit(&registries, "d.example").expect_err("withdrawn").contains("too old"));
}
