//! The rows of a manifest as text: from CSV, or from Parquet, which is known by how it begins.
//!
//! Of a Parquet file, columns of numbers, truths and text are read; nested ones are left alone. A
//! truth is 1 or 0, and a number without a fraction is written without one, whatever its type.

use csv::{Position, StringRecord};
use parquet::basic::{ConvertedType as Meant, Repetition, Type as Physical};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;

use super::DatasetError;

/// How every Parquet file begins, and ends.
const PARQUET: &[u8] = b"PAR1";
/// Columns of a Parquet file that are looked at.
const MAX_COLUMNS: usize = 1_000;
/// Rows that are taken, as many as files.
const MAX_ROWS: usize = 4_000_000;
/// Bytes that they hold; of a Parquet file also those of the columns that are read, before they are unpacked.
const MAX_TEXT: usize = 256 << 20;

/// What a manifest lists.
pub(super) struct Table {
    /// The columns' names.
    pub(super) headers: StringRecord,
    /// The rows in order, each with its line, or nothing where one cannot be read.
    pub(super) rows: Vec<(usize, Option<StringRecord>)>,
}

impl Table {
    /// # Errors
    /// When it is neither CSV with a header line nor a whole Parquet file.
    pub(super) fn read(bytes: Vec<u8>) -> Result<Self, DatasetError> {
        if !bytes.starts_with(PARQUET) {
            return Self::of_csv(&bytes);
        }
        // The reader of Parquet panics over some broken files; nothing outlives it that it has touched.
        std::panic::catch_unwind(|| Self::of_parquet(bytes)).unwrap_or_else(|_| Err(broken()))
    }

    fn of_csv(text: &[u8]) -> Result<Self, DatasetError> {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter(text))
            .trim(csv::Trim::All)
            .flexible(true)
            .from_reader(text);
        let headers = reader.headers().cloned().map_err(|_| {
            let text = "expected CSV text with a header line, or a Parquet file; found neither";
            DatasetError::Manifest(text.to_owned())
        })?;
        // Line 1 is the header.
        let (mut rows, mut most) = (Vec::new(), Most::default());
        for (index, row) in reader.records().enumerate() {
            let row = row.ok();
            most.add(1, row.as_ref().map_or(0, held))?;
            rows.push((index + 2, row));
        }
        Ok(Self { headers, rows })
    }

    fn of_parquet(bytes: Vec<u8>) -> Result<Self, DatasetError> {
        let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).map_err(|_| broken())?;
        let told = file.metadata();
        let plain = plain_columns(told.file_metadata().schema())?;
        let count = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
        let mut most = Most::default();
        most.add(count(told.file_metadata().num_rows()), unpacked(told, &plain))?;
        most = Most::default();
        let headers = plain.get_fields().iter().map(|column| column.name().to_owned()).collect();
        let read =
            RowIter::from_file_into(Box::new(file)).project(Some(plain)).map_err(|_| broken())?;
        let mut rows = Vec::new();
        for (index, row) in read.enumerate() {
            let line = index + 1;
            let row = text_of(row.map_err(|_| broken())?, line);
            // Many rows may stand for few bytes of a packed column.
            most.add(1, held(&row))?;
            rows.push((line, Some(row)));
        }
        Ok(Self { headers, rows })
    }
}

/// What the columns of a projection are before they are unpacked, in bytes.
fn unpacked(told: &ParquetMetaData, plain: &Type) -> usize {
    let is_read = |chunk: &&ColumnChunkMetaData| match chunk.column_path().parts() {
        [name] => plain.get_fields().iter().any(|column| column.name() == name),
        _ => false,
    };
    let chunks = told.row_groups().iter().flat_map(RowGroupMetaData::columns).filter(is_read);
    let sizes =
        chunks.map(|chunk| usize::try_from(chunk.uncompressed_size()).unwrap_or(usize::MAX));
    sizes.fold(0, usize::saturating_add)
}

/// What a row holds: its text, and where each field ends, of which there may be many without any.
fn held(row: &StringRecord) -> usize {
    row.as_slice().len().saturating_add(row.len().saturating_mul(size_of::<usize>()))
}

/// How much a list holds so far.
#[derive(Default)]
pub(super) struct Most {
    rows: usize,
    text: usize,
}

impl Most {
    pub(super) fn add(&mut self, rows: usize, text: usize) -> Result<(), DatasetError> {
        self.rows = self.rows.saturating_add(rows);
        self.text = self.text.saturating_add(text);
        if self.rows > MAX_ROWS || self.text > MAX_TEXT {
            let most = MAX_TEXT >> 20;
            return Err(DatasetError::Manifest(format!(
                "expected at most {MAX_ROWS} rows and {most} MiB of text, found more"
            )));
        }
        Ok(())
    }
}

fn broken() -> DatasetError {
    let text = "expected a whole Parquet file, found one that cannot be read to its end";
    DatasetError::Manifest(text.to_owned())
}

/// What is between the columns of the first line: a comma, or what spreadsheets write where a comma is
/// in numbers, or a tab.
fn delimiter(text: &[u8]) -> u8 {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |wanted: u8| line.iter().filter(|byte| **byte == wanted).count();
    // The first of equals: a comma.
    [b';', b'\t', b','].into_iter().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}

/// The columns that are not nested, as a projection of all.
fn plain_columns(schema: &Type) -> Result<Type, DatasetError> {
    let wrong = |text: String| DatasetError::Manifest(text);
    let fields = schema.get_fields();
    if fields.len() > MAX_COLUMNS {
        let found = fields.len();
        return Err(wrong(format!("expected at most {MAX_COLUMNS} columns, found {found}")));
    }
    let plain = fields.iter().filter(|column| is_plain(column)).cloned().collect();
    let built = Type::group_type_builder(schema.name()).with_fields(plain).build();
    built.map_err(|_| wrong("expected columns of a Parquet file, found none".to_owned()))
}

/// Whether a column is of one number, truth or text in each row. Of others the reader may not even know
/// what to make.
fn is_plain(column: &Type) -> bool {
    let info = column.get_basic_info();
    if !column.is_primitive() || !info.has_repetition() || info.repetition() == Repetition::REPEATED
    {
        return false;
    }
    let meant = info.converted_type();
    match column.get_physical_type() {
        Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE => meant == Meant::NONE,
        Physical::INT32 => matches!(
            meant,
            Meant::NONE
                | Meant::INT_8
                | Meant::INT_16
                | Meant::INT_32
                | Meant::UINT_8
                | Meant::UINT_16
                | Meant::UINT_32
        ),
        Physical::INT64 => matches!(meant, Meant::NONE | Meant::INT_64 | Meant::UINT_64),
        Physical::BYTE_ARRAY => matches!(meant, Meant::NONE | Meant::UTF8 | Meant::ENUM),
        Physical::INT96 | Physical::FIXED_LEN_BYTE_ARRAY => false,
    }
}

fn text_of(row: Row, line: usize) -> StringRecord {
    let mut record: StringRecord =
        row.into_columns().into_iter().map(|(_, field)| text(field)).collect();
    record.trim();
    let mut position = Position::new();
    position.set_line(u64::try_from(line).unwrap_or(u64::MAX));
    record.set_position(Some(position));
    record
}

fn text(field: Field) -> String {
    match field {
        Field::Str(text) => text,
        // Text whose writer did not say that it is.
        Field::Bytes(bytes) => String::from_utf8(bytes.data().to_vec()).unwrap_or_default(),
        Field::Bool(truth) => u8::from(truth).to_string(),
        Field::Byte(number) => number.to_string(),
        Field::Short(number) => number.to_string(),
        Field::Int(number) => number.to_string(),
        Field::Long(number) => number.to_string(),
        Field::UByte(number) => number.to_string(),
        Field::UShort(number) => number.to_string(),
        Field::UInt(number) => number.to_string(),
        Field::ULong(number) => number.to_string(),
        // Tools that know a missing number only among fractions write whole ones as such.
        Field::Float(number) => plain(f64::from(number)),
        Field::Double(number) => plain(number),
        Field::Null
        | Field::Float16(_)
        | Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_)
        | Field::Group(_)
        | Field::ListInternal(_)
        | Field::MapInternal(_) => String::new(),
    }
}

/// Nothing for what is no number: that is how a missing one is written.
fn plain(number: f64) -> String {
    if number.is_nan() { String::new() } else { number.to_string() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{
        BoolType, ByteArray, ByteArrayType, DoubleType, FloatType, Int32Type, Int64Type, Int96,
        Int96Type,
    };
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    const SCHEMA: &str = "message manifest {
        required binary path (UTF8);
        required int64 patient_id;
        optional double label;
        required boolean split;
        required int96 taken;
        required int32 room (INT_16);
    }";

    fn written(compression: Compression) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
        let how = WriterProperties::builder().set_compression(compression).build();
        let mut bytes = Vec::new();
        let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::new(how)).expect("begun");
        let mut group = file.next_row_group().expect("a row group");
        macro_rules! column {
            ($kind:ty, $values:expr, $present:expr) => {{
                let mut column = group.next_column().expect("asked").expect("a column");
                let written = column.typed::<$kind>().write_batch(&$values, $present, None);
                written.expect("written");
                column.close().expect("closed");
            }};
        }
        column!(ByteArrayType, [" a.dcm ", "b.dcm", "c.dcm"].map(ByteArray::from), None);
        column!(Int64Type, [7, -1, 9_007_199_254_740_993], None);
        column!(DoubleType, [1.0, 0.5], Some(&[1, 0, 1]));
        column!(BoolType, [true, false, true], None);
        column!(Int96Type, [1, 2, 3].map(|day| Int96::from(vec![day, 0, 2_440_588])), None);
        column!(Int32Type, [1, 2, 3], None);
        group.close().expect("closed");
        file.close().expect("closed");
        bytes
    }

    #[test]
    fn columns_are_told_apart_by_what_the_first_line_has_most_of() {
        for text in ["path,label\na,1\n", "path;label\na;1\n", "path\tlabel\na\t1\n"] {
            let table = Table::read(text.into()).expect("a table");
            assert_eq!(table.headers, vec!["path", "label"]);
            assert_eq!(table.rows, [(2, Some(vec!["a", "1"].into()))]);
        }
    }

    #[test]
    fn parquet_of_every_common_compression_reads_as_text() {
        let zstd = Compression::ZSTD(ZstdLevel::default());
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd] {
            let table = Table::read(written(compression)).expect("a table");
            assert_eq!(table.headers, vec!["path", "patient_id", "label", "split", "room"]);
            let rows: Vec<_> = table.rows.into_iter().map(|(_, row)| row.expect("whole")).collect();
            assert_eq!(rows[0], vec!["a.dcm", "7", "1", "1", "1"]);
            assert_eq!(rows[1], vec!["b.dcm", "-1", "", "0", "2"]);
            assert_eq!(rows[2], vec!["c.dcm", "9007199254740993", "0.5", "1", "3"]);
            assert_eq!(rows[2].position().map(Position::line), Some(3));
        }
    }

    /// A column of one value takes few bytes, however often it is there.
    fn repeated(rows: usize) -> Vec<u8> {
        let schema = "message manifest { required binary path (UTF8); }";
        let schema = Arc::new(parse_message_type(schema).expect("a schema"));
        let how = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut bytes = Vec::new();
        let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::new(how)).expect("begun");
        let mut group = file.next_row_group().expect("a row group");
        let mut column = group.next_column().expect("asked").expect("a column");
        let values = vec![ByteArray::from(vec![b'x'; 1 << 10]); rows];
        column.typed::<ByteArrayType>().write_batch(&values, None, None).expect("written");
        column.close().expect("closed");
        group.close().expect("closed");
        file.close().expect("closed");
        bytes
    }

    #[test]
    fn more_rows_or_text_than_are_taken_are_refused_before_they_fill_the_memory() {
        let mut most = Most::default();
        assert!(most.add(MAX_ROWS, MAX_TEXT).is_ok());
        assert!(most.add(1, 0).is_err());
        assert!(Most::default().add(0, usize::MAX).is_err());
        let few = repeated(1000);
        assert_eq!(Table::read(few).expect("a table").rows.len(), 1000);
        let many = repeated((MAX_TEXT >> 10) + 1);
        assert!(many.len() < 1 << 20, "{}", many.len());
        let error = Table::read(many).err().expect("refused").to_string();
        assert!(error.contains("256 MiB"), "{error}");
    }

    #[test]
    fn a_field_counts_without_text_too() {
        let empty: StringRecord = vec![""; 1000].into();
        assert_eq!(held(&empty), 8000);
        let mut most = Most::default();
        let taken = (0..MAX_ROWS).take_while(|_| most.add(1, held(&empty)).is_ok()).count();
        assert_eq!(taken, MAX_TEXT / 8000);
    }

    #[test]
    fn a_table_of_text_has_the_same_bound() {
        let row = [&[b','; 100_000][..], b"\n"].concat();
        let error = Table::read(row.repeat(400)).err().expect("refused").to_string();
        assert!(error.contains("256 MiB"), "{error}");
        assert_eq!(Table::read(row.repeat(3)).expect("a table").rows.len(), 2);
    }

    #[test]
    fn columns_that_are_not_read_do_not_count() {
        let schema = "message manifest {
            required binary path (UTF8);
            repeated float embedding;
            optional group inner { optional int64 path; }
        }";
        let schema = Arc::new(parse_message_type(schema).expect("a schema"));
        let how = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_dictionary_enabled(false)
            .build();
        let mut bytes = Vec::new();
        let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::new(how)).expect("begun");
        let mut group = file.next_row_group().expect("a row group");
        let mut column = group.next_column().expect("asked").expect("a column");
        let path = column.typed::<ByteArrayType>().write_batch(&["a".into()], None, None);
        path.expect("written");
        column.close().expect("closed");
        // One row's list of a thousand numbers.
        let mut column = group.next_column().expect("asked").expect("a column");
        let mut again = vec![1; 1000];
        again[0] = 0;
        let list =
            column.typed::<FloatType>().write_batch(&[0.0; 1000], Some(&[1; 1000]), Some(&again));
        list.expect("written");
        column.close().expect("closed");
        let mut column = group.next_column().expect("asked").expect("a column");
        column.typed::<Int64Type>().write_batch(&[7], Some(&[2]), None).expect("written");
        column.close().expect("closed");
        group.close().expect("closed");
        file.close().expect("closed");
        let read = SerializedFileReader::new(bytes::Bytes::from(bytes.clone())).expect("a file");
        let told = read.metadata();
        let plain = plain_columns(told.file_metadata().schema()).expect("columns");
        assert!(told.row_group(0).total_byte_size() > 4000);
        let found = unpacked(told, &plain);
        assert!((1..100).contains(&found), "{found}");
        let table = Table::read(bytes).expect("a table");
        assert_eq!((table.headers, table.rows.len()), (vec!["path"].into(), 1));
    }

    /// Whatever byte is changed and wherever the file ends: a table or one reason, never a panic.
    #[test]
    fn broken_parquet_is_refused_or_read_and_nothing_worse() {
        let whole = written(Compression::SNAPPY);
        for length in 4..whole.len() {
            assert!(Table::read(whole[..length].to_vec()).is_err(), "{length} bytes");
        }
        for place in 4..whole.len() {
            for bit in 0..8 {
                let mut bent = whole.clone();
                bent[place] ^= 1 << bit;
                let _ = Table::read(bent);
            }
        }
    }
}
