//! `serve`: an app that serves the static files of a folder.

use serde_json::{Map, Value, json};

use super::start;
use crate::cli::args::ServeArgs;
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::config;

/// Where PM2 serves when nobody says where.
const PORT: &str = "8080";

/// `serve [PATH] [PORT]`.
///
/// # Errors
/// When the folder or the port makes no sense, or the app does not start.
pub async fn serve(session: &Session, args: &ServeArgs) -> Result<(), Failure> {
    let caller = session.caller();
    let of_caller = |name: &str| caller.env.get(name).filter(|value| !value.is_empty()).cloned();
    let port = of_caller("PM2_SERVE_PORT").or_else(|| args.port.clone()).or_else(|| args.port_option.clone());
    let port = port.unwrap_or_else(|| PORT.to_owned());
    if port.parse::<u16>().is_err() {
        return Err(Failure::error(format!("cannot serve on port `{port}`: it is not a number up to 65535")));
    }
    let folder = caller.cwd.join(of_caller("PM2_SERVE_PATH").map_or_else(|| args.path.clone(), Into::into));
    // The way it was typed may have `.` and `..` in it.
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    if !folder.is_dir() {
        return Err(Failure::error(format!("cannot serve `{}`: there is no such folder", folder.display())));
    }
    let shown = folder.display().to_string();
    let mut env = Map::from_iter([
        ("PM2_SERVE_PORT".to_owned(), json!(port)),
        ("PM2_SERVE_PATH".to_owned(), json!(shown)),
        ("PM2_SERVE_SPA".to_owned(), json!(args.spa.to_string())),
        ("PM2_SERVE_FTP".to_owned(), json!(args.ftp.to_string())),
    ]);
    if let (Some(user), Some(password)) = (&args.basic_auth_username, &args.basic_auth_password) {
        env.insert("PM2_SERVE_BASIC_AUTH".to_owned(), json!("true"));
        env.insert("PM2_SERVE_BASIC_AUTH_USERNAME".to_owned(), json!(user));
        env.insert("PM2_SERVE_BASIC_AUTH_PASSWORD".to_owned(), json!(password));
    } else if args.basic_auth_username.is_some() || args.basic_auth_password.is_some() {
        return Err(Failure::error("--basic-auth-username and --basic-auth-password go together"));
    }
    let mut options = session.options.overrides();
    options.name.get_or_insert_with(|| format!("static-page-server-{port}"));
    options.cwd = Some(folder);
    options.more.insert("env".to_owned(), Value::Object(env));
    let resolved = config::resolve_script("serve", Vec::new(), &options, &caller)?;
    for warning in &resolved.warnings {
        session.console.warn(&warning.0);
    }
    let client = session.daemon().await?;
    session.console.info(start::starting(&resolved.spec, caller.cpus));
    start::launch(session, &client, &resolved.spec, session.options.force).await?;
    session.console.info("Done.");
    session.console.info(format!("Serving {shown} on port {port}"));
    session.show_list(&client).await
}
