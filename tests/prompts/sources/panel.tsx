const Panel = <T,>(props: Props<T>) => (
  <List<T> rows={props.rows} title="all">
    {props.rows.length > 0 && <b>done</b>}
    left over
  </List>
);
