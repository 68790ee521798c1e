//! Operations on `deviceTemplates` and on the devices that are created from them.
//!
//! # Design notes
//! A template that names a configuration of this directory refers to it, so that the configuration
//! cannot be deleted while the template exists.  With `mutualTlsOauthConfigurationTenantId`, the
//! configuration may belong to another tenant, and is then not checked if it is not in this directory.
//! Gateways of this directory do not admit devices of such a template, because a registry applies only
//! to the configurations of its own directory.
//!
//! In Graph, the owners of a template may create devices from it with a permission that allows nothing
//! else.  Callers are not objects of this directory, so that owners cannot be listed or added.  The
//! owner is the caller that created the template.

use hyper::Method;
use serde_json::{Map, Value};

use crate::directory::call::Call;
use crate::directory::device::{self, Device};
use crate::directory::errors::{Fault, store_fault};
use crate::directory::list::{self, Scope};
use crate::directory::odata::{AllowedOptions, Query};
use crate::directory::permissions::Need;
use crate::directory::responses::{Success, entity_tag};
use crate::directory::shapes::{DeviceTemplate, Entity};
use crate::directory::{objects, validate};
use crate::store::{Collection, StoreError};

const KIND: Collection = Collection::DeviceTemplates;
const CONTEXT: &str = "directory/templates/deviceTemplates";
/// Maximum number of templates.
const MAX_OBJECTS: u64 = 10_000;

type Template = DeviceTemplate;

pub(super) async fn collection(call: &Call) -> Result<Success, Fault> {
    match call.method {
        Method::GET => list::page::<Template>(call, KIND, CONTEXT).await,
        Method::POST => {
            Query::parse::<Template>(&call.query, AllowedOptions::None)?;
            let owner = call.caller.identity.clone();
            let new = validate::devices::create_template(&call.object()?, owner)?;
            let version = store(call, &new).await?;
            Ok(Success::Created(objects::json(call, &new, CONTEXT, version), version))
        }
        _ => Err(Fault::MethodNotAllowed("GET, POST")),
    }
}

async fn store(call: &Call, new: &Template) -> Result<u64, Fault> {
    let Some(id) = &new.mutual_tls_oauth_configuration_id else {
        return objects::create(call, KIND, new, Some(MAX_OBJECTS)).await;
    };
    let target = (Collection::MutualTlsOauthConfigurations, &**id);
    match objects::create_referring(call, KIND, new, Some(MAX_OBJECTS), target).await {
        Err(StoreError::Missing) if new.mutual_tls_oauth_configuration_tenant_id.is_some() => {
            objects::create(call, KIND, new, Some(MAX_OBJECTS)).await
        }
        Err(StoreError::Missing) => Err(Fault::Property {
            property: "mutualTlsOauthConfigurationId",
            resource: "DeviceTemplate",
            target: "mutualTlsOauthConfigurationId".into(),
            why: format!(
                "the mutualTlsOauthConfiguration `{id}` does not exist in this directory; for one of \
                 another tenant, set mutualTlsOauthConfigurationTenantId"
            ),
        }),
        done => done.map_err(|error| store_fault(error, &new.id)),
    }
}

pub(super) async fn count(call: &Call) -> Result<Success, Fault> {
    match call.method {
        Method::GET => list::count::<Template>(call, KIND).await,
        _ => Err(Fault::MethodNotAllowed("GET")),
    }
}

/// Templates cannot be changed, so that a device always has the properties of its template.
pub(super) async fn item(call: &Call, id: &str) -> Result<Success, Fault> {
    match call.method {
        Method::GET => objects::get::<Template>(call, KIND, id, CONTEXT).await,
        Method::DELETE => objects::remove::<Template>(call, KIND, id).await,
        _ => Err(Fault::MethodNotAllowed("GET, DELETE")),
    }
}

/// Action `createDeviceFromTemplate`.  Returns 200, like all Graph actions.
pub(super) async fn create_device(call: &Call, id: &str) -> Result<Success, Fault> {
    if call.method != Method::POST {
        return Err(Fault::MethodNotAllowed("POST"));
    }
    Query::parse::<Device>(&call.query, AllowedOptions::None)?;
    let new = validate::devices::create_device(&call.object()?)?;
    let (_, template) = objects::load::<Template>(call, KIND, id).await?;
    let owns = template.owner.as_deref().is_some_and(|owner| call.caller.is(owner));
    if !owns {
        call.caller.require(Need::WriteDevices)?;
    }
    let device = Device::new(new, &template, call.now);
    let target = (KIND, id);
    let most = Some(device::MAX_OBJECTS);
    match objects::create_referring(call, device::KIND, &device, most, target).await {
        Ok(version) => {
            let json = objects::json(call, &device, device::CONTEXT, version);
            Ok(Success::Object(json, version))
        }
        Err(StoreError::Missing) => Err(Fault::NotFound(id.into())),
        Err(StoreError::Exists) => Err(Fault::Conflict(
            "Another object with the same value for property externalDeviceId already exists."
                .into(),
        )),
        Err(error) => Err(store_fault(error, device.id())),
    }
}

pub(super) async fn instances(call: &Call, id: &str) -> Result<Success, Fault> {
    if call.method != Method::GET {
        return Err(Fault::MethodNotAllowed("GET"));
    }
    objects::load::<Template>(call, KIND, id).await?;
    let context = format!("{CONTEXT}('{id}')/deviceInstances");
    let scope = Scope::Referring(KIND, id);
    list::page_of::<Device>(call, device::KIND, scope, &context).await
}

pub(super) async fn count_instances(call: &Call, id: &str) -> Result<Success, Fault> {
    if call.method != Method::GET {
        return Err(Fault::MethodNotAllowed("GET"));
    }
    objects::load::<Template>(call, KIND, id).await?;
    list::count_of::<Device>(call, device::KIND, Scope::Referring(KIND, id)).await
}

/// One device, if it was created from the template.
pub(super) async fn instance(call: &Call, id: &str, device: &str) -> Result<Success, Fault> {
    if call.method != Method::GET {
        return Err(Fault::MethodNotAllowed("GET"));
    }
    let (_, found) = objects::load::<Device>(call, device::KIND, device).await?;
    if found.template() != id {
        return Err(Fault::NotFound(device.into()));
    }
    objects::get::<Device>(call, device::KIND, device, device::CONTEXT).await
}

/// An empty list, see the design notes.
pub(super) async fn owners(call: &Call, id: &str) -> Result<Success, Fault> {
    match call.method {
        Method::GET => {
            let (record, _) = objects::load::<Template>(call, KIND, id).await?;
            let mut json = Map::new();
            json.insert(
                "@odata.context".into(),
                format!("{}/$metadata#directoryObjects", call.root).into(),
            );
            json.insert("value".into(), Value::Array(Vec::new()));
            Ok(Success::List(json, entity_tag(record.version)))
        }
        _ => Err(Fault::Conflict(
            "Owners cannot be added or removed: callers are not objects of this directory. The owner \
             of a template is the caller that created it."
                .into(),
        )),
    }
}
