//! The rules that hold after every step.

use std::time::Duration;

use anchorgate::x509::time::Timestamp;

use crate::directory::{self, Confirmed, MAX_AGE};
use crate::issuer;
use crate::network::{Domain, lock};
use crate::pki::{AUTHORITIES, Device};
use crate::simulation::Simulation;

/// Time within which a gateway follows a directory that works: the longest demanded pause (20 minutes),
/// the longest pause after failures (5 minutes), a poll and its time limit.
const DIRECTORY_BOUND: Duration = Duration::from_secs(1800);
/// Time within which a gateway follows a CRL server that works.
const ISSUER_BOUND: Duration = Duration::from_secs(900);

/// Checks all rules.
///
/// # Errors
/// The violated rule, with the values.
pub fn check(simulation: &Simulation) -> Result<(), String> {
    if simulation.gateway.has_failed() {
        return Err("a part of the gateway ended".to_owned());
    }
    let world = lock(&simulation.world);
    for (index, domain) in world.domains.iter().enumerate() {
        for device in 0..domain.pki.devices.len() {
            check_device(simulation, domain, device, world.wall())
                .map_err(|why| format!("device {}: {why}", domain.pki.devices[device].id))?;
        }
        let named = |why: String| format!("domain {}: {why}", domain.name);
        check_directory(simulation, domain, index).map_err(named)?;
        let times = (world.time(), world.wall());
        check_issuer(simulation, domain, index, times).map_err(named)?;
    }
    Ok(())
}

/// A device is let in exactly if the data that the gateway received admits it.
fn check_device(
    simulation: &Simulation,
    domain: &Domain,
    index: usize,
    wall: Timestamp,
) -> Result<(), String> {
    let device = &domain.pki.devices[index];
    let verdict = simulation.gateway.admits(device, wall);
    let (least, most) = expected(domain, index, device, wall);
    match &verdict {
        Ok(()) if !most => Err("it is let in, and must not be".to_owned()),
        Err(why) if least => Err(format!("it is refused, and must not be: {why}")),
        _ => Ok(()),
    }
}

/// Returns whether the device must, and whether it may be let in.
fn expected(domain: &Domain, index: usize, device: &Device, wall: Timestamp) -> (bool, bool) {
    let model = &domain.directory.model;
    let mut expected = (true, true);
    let mut also = |(least, most): (bool, bool)| {
        expected = (expected.0 && least, expected.1 && most);
    };
    let has_anchor = |listing: &Option<directory::Listing>| {
        listing.as_ref().is_some_and(|listing| listing.contains(&device.authority))
    };
    let (in_force, undecided) = (has_anchor(&model.listing), has_anchor(&model.undecided));
    also((model.is_exact && in_force, in_force || undecided || model.is_lost));
    also(fresh(model.confirmed));
    if domain.name == "a" {
        let devices = model.devices.as_ref();
        let is_enabled = devices.and_then(|devices| devices.get(&index)) == Some(&true);
        also((model.devices_are_exact && is_enabled, is_enabled || model.devices_are_lost));
        also(fresh(model.devices_confirmed));
    }
    let lists = &domain.issuer.lists[device.authority];
    match &lists.model {
        _ if lists.is_unknown => also((false, true)),
        None => also((false, false)),
        Some(list) => {
            let is_listed = list.revoked.contains(&device.serial);
            also((!is_listed, !is_listed));
            let (start, end) = (list.this_update.0, list.next_update.0);
            // The second in which a list begins or ends to be valid may count as either.
            also((start < wall.0 && wall.0 < end, start <= wall.0 && wall.0 <= end + 1));
        }
    }
    expected
}

/// Returns whether data must, and whether it may be fresh enough to be in force.
fn fresh(confirmed: Option<Confirmed>) -> (bool, bool) {
    let Some(Confirmed { at, slack, .. }) = confirmed else { return (false, false) };
    let age = at.elapsed();
    (age + slack < MAX_AGE, age < MAX_AGE + slack)
}

/// A gateway has the newest data of a directory that works, and shows what is wrong with one that does
/// not.
fn check_directory(simulation: &Simulation, domain: &Domain, index: usize) -> Result<(), String> {
    let (directory, model) = (&domain.directory, &domain.directory.model);
    let status = simulation.gateway.followers[index].status();
    let is_held = status.held_back.is_some();
    if model.is_exact && is_held != model.held.is_some() {
        return Err(format!("held back: {is_held}, expected: {:?}", model.held));
    }
    let since = simulation.directory_since[index].max(simulation.started);
    let is_settled = since.elapsed() > DIRECTORY_BOUND;
    let fault = directory.fault.filter(|fault| *fault != directory::Fault::Forgotten);
    if is_settled && fault.is_none() {
        let held = model.held.as_ref();
        if model.listing.as_ref() != Some(directory.listing()) && held != Some(directory.listing())
        {
            return Err(format!("{:?} is in force, not {:?}", model.listing, directory.listing()));
        }
        if domain.name == "a" && model.devices.as_ref() != Some(&directory.devices()) {
            return Err(format!("devices {:?}, not {:?}", model.devices, directory.devices()));
        }
        if let Some(error) = status.last_error {
            return Err(format!("an error is shown for a directory that works: {error}"));
        }
    }
    let lenient = [None, Some(directory::Fault::Older), Some(directory::Fault::Empty)];
    if is_settled && !lenient.contains(&fault) && status.last_error.is_none() {
        return Err(format!("no error is shown while the directory is {fault:?}"));
    }
    if let Some(Confirmed { at, slack, .. }) = model.confirmed
        && at.elapsed() > MAX_AGE + slack
        && !status.too_old
    {
        return Err("the data is too old, and the status does not show it".to_owned());
    }
    Ok(())
}

/// A gateway has the newest lists of a server that works, and shows what is wrong with one that does not.
fn check_issuer(
    simulation: &Simulation,
    domain: &Domain,
    index: usize,
    (now, wall): (Timestamp, Timestamp),
) -> Result<(), String> {
    let since = [
        simulation.issuer_since[index],
        simulation.directory_since[index],
        simulation.clock_changed,
        simulation.started,
    ];
    let is_settled = since.into_iter().max().is_some_and(|at| at.elapsed() > DIRECTORY_BOUND);
    let statuses = simulation.gateway.lists.status();
    for authority in 0..AUTHORITIES {
        let model = &domain.directory.model;
        let is_certain = model.is_exact && fresh(model.confirmed).0;
        let in_force = model.listing.as_ref().filter(|_| is_certain);
        if !in_force.is_some_and(|listing| listing.contains(&authority)) {
            continue;
        }
        let lists = &domain.issuer.lists[authority];
        let url = &domain.pki.authorities[authority].crl_url;
        let status = statuses.iter().find(|status| status.address == *url);
        let Some(status) = status else {
            let model = (&model.listing, &model.confirmed);
            return Err(format!("{url} is not fetched, with {model:?}"));
        };
        let number = |list: &issuer::Published| list.number.to_string();
        let in_force = status.list.as_ref().and_then(|list| list.number.clone());
        if lists.is_unknown {
            continue;
        }
        if in_force != lists.model.as_ref().map(number) {
            return Err(format!("{url}: list {in_force:?} is in force, not the newest received"));
        }
        let works =
            domain.issuer.fault.is_none() || domain.issuer.fault == Some(issuer::Fault::Stale);
        let current = lists.current();
        // A clock that is behind rejects the list until its time has come.
        let is_due = now.min(wall).since(current.this_update) > ISSUER_BOUND;
        if works && is_due && is_settled {
            let current = current.number;
            if lists.model.as_ref().is_none_or(|list| list.number != current) {
                return Err(format!("{url}: list {in_force:?} is in force, not {current}"));
            }
        }
        let is_broken = !works && domain.issuer.fault != Some(issuer::Fault::Older);
        if is_broken && is_settled && status.last_error.is_none() {
            return Err(format!("{url}: no error is shown: {:?}", domain.issuer.fault));
        }
    }
    Ok(())
}
