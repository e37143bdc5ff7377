//! The address of a published table, and connections to its server.

use std::time::Duration;

use anyhow::{Result, anyhow};
use postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::base::error::Failure;
use crate::base::tls;

const CONNECT: Duration = Duration::from_secs(5);
/// How long a connection may stay without an answer from the network.
const SILENCE: Duration = Duration::from_secs(30);

/// The address of a table.
#[derive(Clone)]
pub struct Address {
    config: Config,
    /// The schema as given. If none was given, the first connection sets it to the schema where the table is or would
    /// be.
    schema: Option<String>,
    pub table: String,
}

impl Address {
    /// `address` is postgres://user@host/database. The password may be in the environment variable PGPASSWORD. `table`
    /// is a name, with or without its schema.
    pub fn new(address: &str, table: &str) -> Result<Self> {
        let mut config: Config = address.parse().map_err(|error: postgres::Error| {
            Failure::Usage(format!("this is not the address of a PostgreSQL server: {}", said(&error)))
        })?;
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        config.application_name("similiai").connect_timeout(CONNECT).tcp_user_timeout(SILENCE);
        let (schema, table) = table.split_once('.').map_or((None, table), |(schema, table)| (Some(schema), table));
        let plain = |name: &str| {
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            !name.is_empty()
                && name.len() <= 40
                && name.chars().all(good)
                && !name.starts_with(|c: char| c.is_ascii_digit())
        };
        if !plain(table) || !schema.is_none_or(plain) {
            let why = "a table name has up to 40 lowercase letters, digits and _; a schema and a dot may come first";
            return Err(Failure::Usage(why.to_owned()).into());
        }
        Ok(Self { config, schema: schema.map(str::to_owned), table: table.to_owned() })
    }

    pub fn quoted(&self, table: &str) -> String {
        let schema = self.schema.iter().map(|schema| format!("\"{schema}\".")).collect::<String>();
        format!("{schema}\"{table}\"")
    }

    /// Fixes the schema of the table and that of the vector type, so that they do not depend on the server's search
    /// path.
    pub fn connect(&mut self) -> Result<Client> {
        let mut client = self.reach()?;
        let table = self.quoted(&self.table);
        let sql = "SELECT coalesce((SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = to_regclass($1)), current_schema(), 'public')::text";
        let schema = client.query_one(sql, &[&table]).map_err(|error| anyhow!("{self}: {}", said(&error)))?.get(0);
        self.schema.get_or_insert(schema);
        see_vectors(&mut client).map_err(|error| anyhow!("{self}: {}", said(&error)))?;
        Ok(client)
    }

    fn reach(&self) -> Result<Client> {
        let failed = |error: &postgres::Error| {
            anyhow!("cannot reach {self}: {} (add sslmode=disable to the address to connect without TLS)", said(error))
        };
        tls::set_up();
        let tls = MakeRustlsConnect::with_native_certs().map(|(tls, _)| tls);
        match tls {
            Ok(tls) => self.config.connect(tls),
            // Without certificates, this machine cannot trust any server. Only servers without TLS are left.
            Err(_) => self.config.connect(postgres::NoTls),
        }
        .map_err(|error| failed(&error))
    }
}

/// Adds the schema of the extension to the search path.
pub fn see_vectors(client: &mut impl postgres::GenericClient) -> Result<(), postgres::Error> {
    let sql = "SELECT set_config('search_path', current_setting('search_path') || ', ' || quote_ident(nspname), false)
        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'vector'";
    client.query(sql, &[]).map(drop)
}

/// Leaves out the password.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        use postgres::config::Host;
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        write!(f, "postgres://{host}/{database}, table {}", self.quoted(&self.table).replace('"', ""))
    }
}

/// The server's own message, which is one level deeper in its errors.
pub fn said(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => match error.hint() {
            Some(hint) => format!("{} ({hint})", error.message()),
            None => error.message().to_owned(),
        },
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let address = Address::new("postgres://me:secret@db.example:5433/pictures", "lake.images").unwrap();
        assert_eq!(address.to_string(), "postgres://db.example/pictures, table lake.images");
        assert_eq!(address.quoted("images_new"), "\"lake\".\"images_new\"");
    }

    #[test]
    fn names_that_would_need_quoting_are_refused() {
        for table in ["", "Images", "a b", "a\"; DROP TABLE x; --", "1st", "a.b.c"] {
            assert!(Address::new("postgres://localhost/x", table).is_err(), "{table}");
        }
        assert!(Address::new("mysql://localhost/x", "images").is_err());
    }
}
