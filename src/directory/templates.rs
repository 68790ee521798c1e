//! `deviceTemplates`, and the devices that are made from them.
//!
//! # Why
//! A template that names a configuration of this directory refers to it, so that neither can be taken
//! away under the other.  With `mutualTlsOauthConfigurationTenantId` the configuration may be another
//! tenant's: one that is not here is then taken as it is said, and no gateway of this directory will
//! know the devices, since a registry counts for the configurations of its own directory alone.
//!
//! Graph gives a template owners, who may make its devices with a permission that covers nothing else.
//! Callers are no objects of this directory, so that there is nobody to list or to add; the owner is
//! who made the template.

use hyper::Method;
use serde_json::{Map, Value};

use crate::directory::auth::Need;
use crate::directory::device::Device;
use crate::directory::devices;
use crate::directory::errors::{Fault, store_fault};
use crate::directory::list::{self, Of};
use crate::directory::odata::{Query, Takes};
use crate::directory::shapes::{DeviceTemplate, Entity};
use crate::directory::{Answer, Call, entity_tag, validate};
use crate::store::{Collection, StoreError};

const KIND: Collection = Collection::DeviceTemplates;
const CONTEXT: &str = "directory/templates/deviceTemplates";
/// Templates in one directory.
const MOST: u64 = 10_000;

type Template = DeviceTemplate;

pub(super) async fn collection(call: &Call) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::page::<Template>(call, KIND, CONTEXT).await,
        Method::POST => {
            Query::parse::<Template>(&call.query, Takes::Nothing)?;
            let owner = call.caller.identity.clone();
            let new = validate::devices::create_template(&call.object()?, owner)?;
            let version = store(call, &new).await?;
            Ok(Answer::Created(list::answer(call, &new, CONTEXT, version), version))
        }
        _ => Err(Fault::Method("GET, POST")),
    }
}

async fn store(call: &Call, new: &Template) -> Result<u64, Fault> {
    let Some(id) = &new.mutual_tls_oauth_configuration_id else {
        return list::create(call, KIND, new, Some(MOST)).await;
    };
    let target = (Collection::MutualTlsOauthConfigurations, &**id);
    match list::create_referring(call, KIND, new, Some(MOST), target).await {
        Err(StoreError::Missing) if new.mutual_tls_oauth_configuration_tenant_id.is_some() => {
            list::create(call, KIND, new, Some(MOST)).await
        }
        Err(StoreError::Missing) => Err(Fault::Property {
            property: "mutualTlsOauthConfigurationId",
            resource: "DeviceTemplate",
            target: "mutualTlsOauthConfigurationId".into(),
            why: format!(
                "there is no mutualTlsOauthConfiguration `{id}` here; one of another tenant needs \
                 mutualTlsOauthConfigurationTenantId"
            ),
        }),
        done => done.map_err(|error| store_fault(error, &new.id)),
    }
}

pub(super) async fn count(call: &Call) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::count::<Template>(call, KIND).await,
        _ => Err(Fault::Method("GET")),
    }
}

/// Immutable, so that what is stamped on a device stays what its template says.
pub(super) async fn one(call: &Call, id: &str) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::get::<Template>(call, KIND, id, CONTEXT).await,
        Method::DELETE => list::remove::<Template>(call, KIND, id).await,
        _ => Err(Fault::Method("GET, DELETE")),
    }
}

/// `createDeviceFromTemplate`: 200, as Graph's actions answer.
pub(super) async fn create_device(call: &Call, id: &str) -> Result<Answer, Fault> {
    if call.method != Method::POST {
        return Err(Fault::Method("POST"));
    }
    Query::parse::<Device>(&call.query, Takes::Nothing)?;
    let new = validate::devices::create_device(&call.object()?)?;
    let (_, template) = list::load::<Template>(call, KIND, id).await?;
    let owns = template.owner.is_some() && template.owner == call.caller.identity;
    if !owns {
        call.caller.require(Need::WriteDevices)?;
    }
    let device = Device::new(new, &template, call.now);
    let target = (KIND, id);
    let most = Some(devices::MOST);
    match list::create_referring(call, devices::KIND, &device, most, target).await {
        Ok(version) => {
            let answer = list::answer(call, &device, devices::CONTEXT, version);
            Ok(Answer::Object(answer, version))
        }
        Err(StoreError::Missing) => Err(Fault::NotFound(id.into())),
        Err(StoreError::Exists) => Err(Fault::Conflict(
            "Another object with the same value for property externalDeviceId already exists."
                .into(),
        )),
        Err(error) => Err(store_fault(error, device.id())),
    }
}

pub(super) async fn instances(call: &Call, id: &str) -> Result<Answer, Fault> {
    if call.method != Method::GET {
        return Err(Fault::Method("GET"));
    }
    list::load::<Template>(call, KIND, id).await?;
    let context = format!("{CONTEXT}('{id}')/deviceInstances");
    let of = Of::Referring(KIND, id);
    list::page_of::<Device>(call, devices::KIND, of, &context).await
}

pub(super) async fn count_instances(call: &Call, id: &str) -> Result<Answer, Fault> {
    if call.method != Method::GET {
        return Err(Fault::Method("GET"));
    }
    list::load::<Template>(call, KIND, id).await?;
    list::count_of::<Device>(call, devices::KIND, Of::Referring(KIND, id)).await
}

/// One device, if it was made from the template.
pub(super) async fn instance(call: &Call, id: &str, device: &str) -> Result<Answer, Fault> {
    if call.method != Method::GET {
        return Err(Fault::Method("GET"));
    }
    let (_, found) = list::load::<Device>(call, devices::KIND, device).await?;
    if found.template() != id {
        return Err(Fault::NotFound(device.into()));
    }
    list::get::<Device>(call, devices::KIND, device, devices::CONTEXT).await
}

/// Nobody: see above.
pub(super) async fn owners(call: &Call, id: &str) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => {
            let (record, _) = list::load::<Template>(call, KIND, id).await?;
            let mut answer = Map::new();
            answer.insert(
                "@odata.context".into(),
                format!("{}/$metadata#directoryObjects", call.root).into(),
            );
            answer.insert("value".into(), Value::Array(Vec::new()));
            Ok(Answer::List(answer, entity_tag(record.version)))
        }
        _ => Err(Fault::Conflict(
            "Owners cannot be added or removed: callers are no objects of this directory. The owner \
             of a template is who made it."
                .into(),
        )),
    }
}
