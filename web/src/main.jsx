// The employee's chat page. See docs/web.md for how it is built and what it must never do.

import { render } from 'preact';
import { store } from './store.js';
import { App } from './ui/app.jsx';

render(<App />, document.getElementById('app'));
store.start();
