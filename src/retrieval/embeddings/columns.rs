//! Converts columns of any program's Parquet file to texts and numbers.

use arrow::cast::AsArray;
use arrow::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow::{Array, ArrayRef};
use arrow_schema::DataType;
use num_traits::NumCast;

/// The texts of a column, where whole numbers count as texts. `None` if it has another type, or bytes that are no text.
pub fn texts(column: &ArrayRef) -> Option<Vec<Option<String>>> {
    let own = |text: Option<&str>| text.map(str::to_owned);
    let utf8 = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec())).transpose().ok();
    match column.data_type() {
        DataType::Utf8 => Some(column.as_string::<i32>().iter().map(own).collect()),
        DataType::LargeUtf8 => Some(column.as_string::<i64>().iter().map(own).collect()),
        DataType::Utf8View => Some(column.as_string_view().iter().map(own).collect()),
        // Some programs do not mark texts as such.
        DataType::Binary => column.as_binary::<i32>().iter().map(utf8).collect(),
        kind if kind.is_integer() => {
            Some(numbers::<i128>(column)?.into_iter().map(|number| number.map(|number| number.to_string())).collect())
        }
        _ => None,
    }
}

/// The numbers of a column, without decimals if `T` has none. `None` if it has another type, or a number that `T`
/// cannot hold. pandas makes a column of floats from whole numbers if some are missing.
pub fn numbers<T: NumCast>(column: &ArrayRef) -> Option<Vec<Option<T>>> {
    fn of<P: ArrowPrimitiveType<Native: NumCast>, T: NumCast>(column: &ArrayRef) -> Option<Vec<Option<T>>> {
        let fitting = |value: Option<P::Native>| value.map_or(Some(None), |value| NumCast::from(value).map(Some));
        column.as_primitive::<P>().iter().map(fitting).collect()
    }
    match column.data_type() {
        DataType::Int8 => of::<Int8Type, T>(column),
        DataType::Int16 => of::<Int16Type, T>(column),
        DataType::Int32 => of::<Int32Type, T>(column),
        DataType::Int64 => of::<Int64Type, T>(column),
        DataType::UInt8 => of::<UInt8Type, T>(column),
        DataType::UInt16 => of::<UInt16Type, T>(column),
        DataType::UInt32 => of::<UInt32Type, T>(column),
        DataType::UInt64 => of::<UInt64Type, T>(column),
        DataType::Float16 => of::<Float16Type, T>(column),
        DataType::Float32 => of::<Float32Type, T>(column),
        DataType::Float64 => of::<Float64Type, T>(column),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{BinaryArray, BooleanArray, Float64Array, Int64Array, LargeStringArray, StringArray, StringViewArray};
    use std::sync::Arc;

    #[test]
    fn texts_come_from_each_type_of_text_and_from_whole_numbers() {
        let wanted = Some(vec![Some("7".to_owned()), None]);
        let columns: [ArrayRef; 5] = [
            Arc::new(StringArray::from_iter([Some("7"), None])),
            Arc::new(LargeStringArray::from_iter([Some("7"), None])),
            Arc::new(StringViewArray::from_iter([Some("7"), None])),
            Arc::new(BinaryArray::from_iter([Some(b"7"), None])),
            Arc::new(Int64Array::from_iter([Some(7), None])),
        ];
        for column in columns {
            assert_eq!(texts(&column), wanted, "{}", column.data_type());
        }
        let others: [ArrayRef; 3] = [
            Arc::new(BinaryArray::from_iter([Some(b"\xff")])),
            Arc::new(Float64Array::from_iter([Some(7.0)])),
            Arc::new(BooleanArray::from_iter([Some(true)])),
        ];
        assert!(others.iter().all(|column| texts(column).is_none()));
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let column = |value: f64| -> ArrayRef { Arc::new(Float64Array::from_iter([Some(value), None])) };
        assert_eq!(numbers::<i32>(&column(3.0)), Some(vec![Some(3), None]));
        assert_eq!(numbers::<f32>(&column(0.5)), Some(vec![Some(0.5), None]));
        assert_eq!(numbers::<i32>(&column(f64::NAN)), None);
        assert_eq!(numbers::<i32>(&column(3e9)), None);
        let text: ArrayRef = Arc::new(StringArray::from_iter([Some("7")]));
        assert_eq!(numbers::<i32>(&text), None);
    }
}
