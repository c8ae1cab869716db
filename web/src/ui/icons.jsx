// Drawn inline: no icon font, no request. All decorative; the words beside them carry the meaning.

const icon = path => ({ size = 18 }) => (
  <svg class="icon" width={size} height={size} viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8"
       stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">{path}</svg>
);

export const Logo = ({ size = 26 }) => (
  <svg class="logo" width={size} height={size} viewBox="0 0 32 32" aria-hidden="true" focusable="false">
    <path class="logo-wall" d="M3 29V9h4V5h4v4h3V5h4v4h3V5h4v4h4v20Z" />
    <path class="logo-gate" d="M11 29v-8a5 5 0 0 1 10 0v8Z" />
  </svg>
);

export const SendIcon = icon(<path d="M12 19V5M6 11l6-6 6 6" />);
export const StopIcon = icon(<rect x="7" y="7" width="10" height="10" rx="1.5" fill="currentColor" />);
export const PlusIcon = icon(<path d="M12 5v14M5 12h14" />);
export const MenuIcon = icon(<path d="M4 7h16M4 12h16M4 17h16" />);
export const CloseIcon = icon(<path d="M6 6l12 12M18 6L6 18" />);
export const DownIcon = icon(<path d="M6 9l6 6 6-6" />);
export const HouseIcon = icon(<path d="M4 11l8-7 8 7M6 10v10h12V10M10 20v-6h4v6" />);
export const CloudIcon = icon(<path d="M7 18a4.5 4.5 0 0 1-.5-9A6 6 0 0 1 18 10.5 3.8 3.8 0 0 1 17.5 18Z" />);
export const ShieldIcon = icon(<path d="M12 3l7 3v5c0 4.5-3 8-7 10-4-2-7-5.5-7-10V6Z" />);
export const UserIcon = icon(<><circle cx="12" cy="8" r="4" /><path d="M4.5 20a7.5 7.5 0 0 1 15 0" /></>);
export const CopyIcon = icon(<><rect x="9" y="9" width="11" height="11" rx="2" /><path d="M5 15V6a2 2 0 0 1 2-2h8" /></>);
export const AlertIcon = icon(<><circle cx="12" cy="12" r="9" /><path d="M12 7.5v5.5M12 16.5v.01" /></>);
