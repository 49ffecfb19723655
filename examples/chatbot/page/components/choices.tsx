// A group of radio buttons.

import type { JSX } from "preact";

export interface ChoicesProps<Value extends string> {
  readonly label: string;
  /** Name of the inputs, unique on the page. */
  readonly name: string;
  readonly options: readonly (readonly [value: Value, label: string])[];
  readonly value: Value;
  readonly isDisabled?: boolean;
  readonly onChoose: (value: Value) => void;
}

export function Choices<Value extends string>(props: ChoicesProps<Value>): JSX.Element {
  const { label, name, options, value, isDisabled = false, onChoose } = props;
  return (
    <fieldset class="choices" disabled={isDisabled}>
      <legend>{label}</legend>
      <div>
        {options.map(([option, text]) => (
          <label key={option}>
            <input
              type="radio"
              name={name}
              value={option}
              checked={option === value}
              onChange={() => onChoose(option)}
            />
            <span>{text}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}
