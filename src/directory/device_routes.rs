//! Operations on `devices`.  Devices are created from templates, see `template_routes`.

use hyper::Method;

use crate::directory::call::Call;
use crate::directory::device::{CONTEXT, Device, KIND};
use crate::directory::errors::Fault;
use crate::directory::odata::{AllowedOptions, Query};
use crate::directory::responses::Success;
use crate::directory::{list, objects, validate};

pub(super) async fn collection(call: &Call) -> Result<Success, Fault> {
    match call.method {
        Method::GET => list::page::<Device>(call, KIND, CONTEXT).await,
        Method::POST => Err(Fault::Conflict(
            "A device is created from a template: POST \
             /directory/templates/deviceTemplates/{id}/createDeviceFromTemplate."
                .into(),
        )),
        _ => Err(Fault::MethodNotAllowed("GET")),
    }
}

pub(super) async fn count(call: &Call) -> Result<Success, Fault> {
    match call.method {
        Method::GET => list::count::<Device>(call, KIND).await,
        _ => Err(Fault::MethodNotAllowed("GET")),
    }
}

pub(super) async fn item(call: &Call, id: &str) -> Result<Success, Fault> {
    match call.method {
        Method::GET => objects::get::<Device>(call, KIND, id, CONTEXT).await,
        Method::PATCH => {
            Query::parse::<Device>(&call.query, AllowedOptions::None)?;
            let body = call.object()?;
            let change = |stored: &Device| validate::devices::update_device(stored, &body);
            objects::update(call, KIND, id, change).await.map(|_| Success::NoContent)
        }
        Method::DELETE => objects::remove::<Device>(call, KIND, id).await,
        _ => Err(Fault::MethodNotAllowed("GET, PATCH, DELETE")),
    }
}
