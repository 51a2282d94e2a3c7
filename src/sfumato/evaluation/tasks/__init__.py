"""What each task is measured by: functions of pictures, maps and layouts, with intervals."""
